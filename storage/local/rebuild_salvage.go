package local

import (
	"bytes"

	"mailnode/storage/event"
	"mailnode/storage/index"
)

// salvage is an old index, read as far as it can be. regain builds a new one from it;
// asideReader lists what a copy that was set aside has.
type salvage struct{ *index.Salvage }

func openSalvage(s *Slot, dir string) *salvage {
	return &salvage{index.OpenSalvage(s.o.FS, dir, s.latch)}
}

// each calls fn for what can be read of a span, in the order of keys. What cannot be
// read makes that part unsound, so sound tells the truth only about spans that were
// read before.
func (x *salvage) each(sp event.Span, fn func(key, value []byte) error) error {
	return x.Each(index.Span(sp), kindOf(sp.Lower[0]), fn)
}

// sound reports whether no key of a span can be missing or old: then that a record is
// not there proves that it was deleted. Everything that lets a number, or a deletion,
// stand rests on this.
func (x *salvage) sound(sp event.Span) bool { return x.Sound(index.Span(sp)) }

// lose notes that a part cannot be read.
func (x *salvage) lose(sp event.Span, format string, args ...any) {
	x.Lose(index.Span(sp), format, args...)
}

func keySpan(k []byte) event.Span { return event.Span{Lower: k, Upper: append(bytes.Clone(k), 0)} }

// kindOf names the records under a prefix, for a person.
func kindOf(prefix byte) string {
	switch prefix {
	case event.PrefixAccount:
		return "accounts"
	case event.PrefixAddress:
		return "addresses"
	case event.PrefixMailbox:
		return "mailboxes"
	case event.PrefixSubscription:
		return "subscriptions"
	case event.PrefixMessage:
		return "messages"
	case event.PrefixSummary:
		return "envelopes"
	case event.PrefixExpunged:
		return "expunged messages"
	case event.PrefixMissing:
		return "notes about missing messages"
	case event.PrefixJournal:
		return "events"
	}
	return "records of the slot"
}

// newer reports whether value replaces have, the record of the same key. The list of
// files, which would tell which is the newer, may be damaged, and files are read in the
// order of their numbers, which compactions do not keep. So records are compared by
// what only grows in them: an old mailbox or account in the place of the newer would
// give out UIDs and UIDVALIDITYs a second time (law 2). Those that have nothing of the
// kind, and equal ones, go by the order in which they are read.
func newer(key, have, value []byte) bool {
	switch key[0] {
	case event.PrefixMessage:
		a, b := &event.MessageRecord{}, &event.MessageRecord{}
		return unmarshal(have, a) != nil || unmarshal(value, b) == nil && b.Modseq >= a.Modseq
	case event.PrefixExpunged:
		a, b := &event.ExpungedRecord{}, &event.ExpungedRecord{}
		return unmarshal(have, a) != nil || unmarshal(value, b) == nil && b.Message.GetModseq() >= a.Message.GetModseq()
	case event.PrefixMailbox:
		a, b := &event.MailboxRecord{}, &event.MailboxRecord{}
		return unmarshal(have, a) != nil || unmarshal(value, b) == nil && b.Changed >= a.Changed && b.Uidnext >= a.Uidnext
	case event.PrefixAccount:
		a, b := &event.AccountRecord{}, &event.AccountRecord{}
		return unmarshal(have, a) != nil || unmarshal(value, b) == nil && b.UidvalidityNext >= a.UidvalidityNext
	case event.PrefixSlot:
		if string(key) == string(event.HeadKey()) {
			a, b := &event.HeadRecord{}, &event.HeadRecord{}
			return unmarshal(have, a) != nil || unmarshal(value, b) == nil && b.Position >= a.Position
		}
		a, b := &event.SlotRecord{}, &event.SlotRecord{}
		return unmarshal(have, a) != nil || unmarshal(value, b) == nil && len(b.Lineage) >= len(a.Lineage)
	}
	return true
}

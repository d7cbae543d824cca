// Package check proves the laws on one copy's snapshot: that what the records
// say of each other is true. Every test of the store runs it at the end, and
// `slot audit` finds with it. It never repairs, and it believes nothing that it
// can compute.
package check

import (
	"bytes"
	"errors"
	"fmt"

	"google.golang.org/protobuf/proto"

	"mailnode/storage"
	"mailnode/storage/event"
	"mailnode/storage/slot"
)

// Snapshot is a copy at one moment.
type Snapshot interface {
	Get(key []byte) (value []byte, found bool, err error)
	// Each calls fn for the records of a span in key order.
	Each(sp event.Span, fn func(key, value []byte) error) error
	// ProveBody reads a body whole and proves its checksum.
	ProveBody(ref slot.BodyRef) error
}

// Finding is one thing that is not as the laws say.
type Finding struct {
	Law     int          // its number (LAWS §2)
	Account slot.Address // "" when it is about the slot
	Mailbox string       // "" when it is about the account
	UID     storage.UID  // 0 when it is about the mailbox
	Quota   bool         // it is about quota use, which is counted again and keeps nothing down
	Text    string
}

// String is the line that an operator reads.
func (f Finding) String() string {
	b := &bytes.Buffer{}
	if f.Account != "" {
		fmt.Fprintf(b, "%s ", f.Account)
	}
	if f.Mailbox != "" {
		fmt.Fprintf(b, "%s ", f.Mailbox)
	}
	if f.UID != 0 {
		fmt.Fprintf(b, "uid %d", f.UID)
	}
	return fmt.Sprintf("%s: %s (law %d)", bytes.TrimSpace(b.Bytes()), f.Text, f.Law)
}

// Options choose what is proved.
type Options struct {
	Bodies bool // also read every body
	// Progress, when set, is told which of how many parts begins.
	Progress func(part, parts int)
}

// Run returns all findings; the error is about reading the snapshot itself.
func Run(s Snapshot, o Options) ([]Finding, error) {
	c := &checker{s: s, o: o, accounts: map[storage.AccountID]*event.AccountRecord{}, used: map[storage.AccountID]int64{},
		refs: map[slot.BodyRef]uint64{}}
	parts := []func() error{c.slot, c.journal, c.readAccounts, c.addresses, c.mailboxes, c.names, c.stray, c.derived, c.usage, c.missing, c.bodies}
	for i, part := range parts {
		if o.Progress != nil {
			o.Progress(i, len(parts))
		}
		if err := part(); err != nil {
			return c.found, err
		}
	}
	return c.found, nil
}

type checker struct {
	s        Snapshot
	o        Options
	found    []Finding
	head     event.HeadRecord
	slotRec  event.SlotRecord
	accounts map[storage.AccountID]*event.AccountRecord
	used     map[storage.AccountID]int64
	refs     map[slot.BodyRef]uint64
}

func (c *checker) add(f Finding) { c.found = append(c.found, f) }

func (c *checker) report(law int, format string, args ...any) {
	c.add(Finding{Law: law, Text: fmt.Sprintf(format, args...)})
}

func (c *checker) load(key []byte, m proto.Message) (bool, error) {
	found, err := event.Load(c.s, key, m)
	if errors.Is(err, storage.ErrCorrupt) {
		c.report(6, "record %q: %v", key, err)
		return false, nil
	}
	return found, err
}

// each decodes the records of a span; one that cannot be decoded is a finding.
func each[T any, M interface {
	*T
	proto.Message
}](c *checker, sp event.Span, fn func(key []byte, m M) error) error {
	return c.s.Each(sp, func(k, v []byte) error {
		m := M(new(T))
		if err := proto.Unmarshal(v, m); err != nil {
			c.report(6, "record %q cannot be read: %v", k, err)
			return nil
		}
		return fn(k, m)
	})
}

func prefix(p byte) event.Span { return event.SpanOf([]byte{p}) }

// slot checks the lineage against the head.
func (c *checker) slot() error {
	if _, err := c.load(event.HeadKey(), &c.head); err != nil {
		return err
	}
	if _, err := c.load(event.SlotKey(), &c.slotRec); err != nil {
		return err
	}
	last := slot.Branch{}
	for i, b := range c.slotRec.SlotLineage() {
		if i > 0 && (b.Epoch < last.Epoch || b.After < last.After) { // an epoch comes twice when its master stopped uncleanly
			c.report(2, "lineage: epoch %d after %s follows epoch %d after %s", b.Epoch, b.After, last.Epoch, last.After)
		}
		last = b
	}
	if head := slot.Position(c.head.Position); head != 0 && head.Epoch() != last.Epoch {
		c.report(4, "the head is %s, the lineage ends with epoch %d", head, last.Epoch)
	}
	return nil
}

// journal checks that events are whole and follow each other up to the head.
func (c *checker) journal() error {
	var last uint64
	err := c.s.Each(prefix(event.PrefixJournal), func(k, v []byte) error {
		ev, err := event.Decode(v)
		if err != nil {
			c.report(6, "event %s: %v", event.PositionOf(k), err)
			return nil
		}
		if ev.Position != uint64(event.PositionOf(k)) || last != 0 && ev.Previous != last {
			c.report(8, "event %s says that it is %s and follows %s", event.PositionOf(k), slot.Position(ev.Position), slot.Position(ev.Previous))
		}
		last = ev.Position
		return nil
	})
	if last != 0 && last != c.head.Position {
		c.report(8, "the journal ends at %s, the head is %s", slot.Position(last), slot.Position(c.head.Position))
	}
	return err
}

func (c *checker) readAccounts() error {
	return each(c, prefix(event.PrefixAccount), func(_ []byte, a *event.AccountRecord) error {
		c.accounts[storage.AccountID(a.Id)] = a
		return nil
	})
}

func (c *checker) addresses() error {
	return each(c, prefix(event.PrefixAddress), func(k []byte, a *event.AddressRecord) error {
		if string(k[1:]) != a.Address {
			c.report(6, "the record of address %q is under %q", a.Address, k[1:])
		}
		return nil
	})
}

// mailboxes checks each mailbox with its messages, tombstones and counters.
func (c *checker) mailboxes() error {
	validities := map[storage.AccountID]map[uint32]string{}
	return each(c, prefix(event.PrefixMailbox), func(_ []byte, b *event.MailboxRecord) error {
		id := storage.AccountID(b.Account)
		m := &mailbox{c: c, rec: b}
		if a := c.accounts[id]; a != nil {
			m.address = slot.Address(a.Address)
			if b.Uidvalidity >= a.UidvalidityNext {
				m.finding(2, 0, "UIDVALIDITY %d was never given out: the next is %d", b.Uidvalidity, a.UidvalidityNext)
			}
		} else {
			m.finding(8, 0, "account %016x does not exist", b.Account)
		}
		if validities[id] == nil {
			validities[id] = map[uint32]string{}
		}
		if other, taken := validities[id][b.Uidvalidity]; taken {
			m.finding(2, 0, "UIDVALIDITY %d is also that of %q", b.Uidvalidity, other)
		}
		validities[id][b.Uidvalidity] = b.Name
		return m.check()
	})
}

// names checks that the name index is exactly what the records say.
func (c *checker) names() error {
	indexed := map[string]uint64{}
	if err := c.s.Each(prefix(event.PrefixName), func(k, v []byte) error {
		indexed[string(k)] = bytesToID(v)
		return nil
	}); err != nil {
		return err
	}
	err := each(c, prefix(event.PrefixMailbox), func(_ []byte, b *event.MailboxRecord) error {
		if b.Deleted {
			return nil
		}
		k := event.NameKey(storage.AccountID(b.Account), b.Name)
		if id, named := indexed[string(k)]; !named {
			c.add(Finding{Law: 8, Mailbox: b.Name, Text: "its name is not in the name index"})
		} else if id != b.Id {
			c.add(Finding{Law: 8, Mailbox: b.Name, Text: fmt.Sprintf("its name leads to mailbox %016x", id)})
		}
		delete(indexed, string(k))
		return nil
	})
	for k := range indexed {
		c.report(8, "name %q leads to no mailbox", k[9:])
	}
	return err
}

// stray finds messages of mailboxes that do not exist.
func (c *checker) stray() error {
	seen := map[storage.Ref]bool{}
	return c.s.Each(prefix(event.PrefixMessage), func(k, _ []byte) error {
		ref := event.RefOf(k)
		if seen[ref] {
			return nil
		}
		seen[ref] = true
		found, err := c.load(event.MailboxKey(ref), &event.MailboxRecord{})
		if err == nil && !found {
			c.report(8, "messages of mailbox %016x of account %016x, which does not exist", uint64(ref.Mailbox), uint64(ref.Account))
		}
		return err
	})
}

// usage checks the counters of accounts.
func (c *checker) usage() error {
	wrong := func(id storage.AccountID, have int64) {
		f := Finding{Law: 8, Quota: true, Text: fmt.Sprintf("%d bytes are counted, its messages have %d", have, c.used[id])}
		if a := c.accounts[id]; a != nil {
			f.Account = slot.Address(a.Address)
		}
		c.add(f)
	}
	err := each(c, prefix(event.PrefixUsage), func(k []byte, u *event.AccountStats) error {
		id := storage.AccountID(bytesToID(k[1:]))
		if u.Bytes != c.used[id] {
			wrong(id, u.Bytes)
		}
		delete(c.used, id)
		return nil
	})
	for id, bytes := range c.used {
		if bytes != 0 {
			wrong(id, 0)
		}
	}
	return err
}

// missing counts the bodies that notes of missing messages name.
func (c *checker) missing() error {
	return each(c, prefix(event.PrefixMissing), func(k []byte, x *event.MissingRecord) error {
		if x.Message == nil || event.UIDOf(k) != storage.UID(x.Message.Uid) || event.RefOf(k) != x.Message.Ref() {
			c.report(6, "the note of missing message %x is under another key", k)
			return nil
		}
		c.refs[x.Message.Body()]++
		return nil
	})
}

// bodies checks the counts of references, and that what is counted has a place.
func (c *checker) bodies() error {
	wrong := func(b slot.BodyRef, have, want uint64) {
		c.report(1, "body %s has %d references on record, %d messages name it", b, have, want)
	}
	err := c.s.Each(prefix(event.PrefixRefs), func(k, v []byte) error {
		if len(k) != bodyKeyBytes {
			c.report(6, "record %q counts no body", k)
			return nil
		}
		b := event.BodyOf(k)
		have, err := event.ParseRefs(b, v)
		if err != nil || have != c.refs[b] {
			wrong(b, have, c.refs[b])
		}
		delete(c.refs, b)
		return nil
	})
	for b, want := range c.refs {
		wrong(b, 0, want)
	}
	return err
}

func bytesToID(b []byte) (id uint64) {
	for _, x := range b {
		id = id<<8 | uint64(x)
	}
	return id
}

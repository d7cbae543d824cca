package local

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"time"

	"google.golang.org/protobuf/proto"

	"mailnode/storage"
	"mailnode/storage/event"
	"mailnode/storage/mime"
	"mailnode/storage/slot"
)

// AsideMessage is a message that only a state which was set aside has: the history of
// the present master never had it.
type AsideMessage struct {
	Address   slot.Address
	Mailbox   string // as it was called then
	UID       storage.UID
	Date      time.Time // internal date
	Size      int64
	MessageID string // RFC 5322 section 3.6.4, with its brackets; "" when it has none
	GUID      slot.GUID
	Body      bool // it lies in this copy's packs
}

// AsideContent is what only a state that was set aside has.
type AsideContent struct {
	Shared     slot.Position // the last event that both histories have
	Messages   int
	Users      int // whose messages these are
	Folders    int // that they are in
	Bytes      int64
	NoBody     int      // of Messages: the body is not here
	NewUsers   int      // accounts that the present history does not know
	NewFolders int      // likewise
	Changed    []string // accounts with a password, quota or state that the present history lacks; the first few
	ChangedAll int      // how many there are
	Unread     []string // what could not be read: there may be more (law 6)
}

// Nothing reports whether everything was read and nothing was found.
func (c AsideContent) Nothing() bool {
	return c.Messages == 0 && c.NewUsers == 0 && c.NewFolders == 0 && c.ChangedAll == 0 && len(c.Unread) == 0
}

// ReadAside calls fn for every message that a state which was set aside has beyond the
// history that this copy has now (LAWS §6.11), by account, mailbox and UID. The files of
// the state are proved, then it is opened for reading only; what cannot be read is named
// in the result and passed over. One state is read at a time. It returns ErrUnavailable
// while the copy itself is being filled.
func (s *Slot) ReadAside(ctx context.Context, name string, fn func(AsideMessage) error) (AsideContent, error) {
	dir, err := s.asidePath(name)
	if err != nil {
		return AsideContent{}, err
	}
	if s.building.Load() {
		return AsideContent{}, storage.Errorf(storage.ErrUnavailable, "read %q of slot %s: the present state is still being fetched", name, s.o.Slot)
	}
	ctx, stop := s.whileOpen(ctx)
	defer stop()
	select {
	case s.single.readAside <- struct{}{}:
		defer func() { <-s.single.readAside }()
	case <-ctx.Done():
		return AsideContent{}, storage.Errorf(storage.ErrUnavailable, "read %q of slot %s: %w", name, s.o.Slot, context.Cause(ctx))
	}
	x := openSalvage(s, dir)
	defer x.Close()
	r := asideReader{ctx: ctx, s: s, x: x, fn: fn, packs: map[uint32]bool{}}
	if x.Opened() {
		if err := s.read(func(v *view) error {
			r.now = v
			return r.run()
		}); err != nil {
			return r.out, fmt.Errorf("read %q of slot %s: %w", name, s.o.Slot, err)
		}
	}
	r.out.Unread = boundedLines(x.Why)
	return r.out, nil
}

// boundedLines keeps a list short enough for a message.
func boundedLines(list []string) []string {
	const linesMax = 10
	if len(list) > linesMax {
		list = append(list[:linesMax:linesMax], fmt.Sprintf("and %d more", len(list)-linesMax))
	}
	return list
}

// asideReader compares a state that was set aside with the present one.
type asideReader struct {
	ctx context.Context
	s   *Slot
	x   *salvage
	now *view
	fn  func(AsideMessage) error

	fork  fork
	packs map[uint32]bool // those that are here

	account     *event.AccountRecord // whose mailboxes are read; never nil after the first
	known       bool                 // the present state has that account
	born, wrote bool                 // that account was counted in NewUsers, in Users
	out         AsideContent
}

// fork is where two histories parted.
type fork struct {
	shared slot.Position
	// unclean is the count from which on unclean epochs began after shared.
	unclean slot.UncleanCount
	// inside: the lineages do not show the fork, because the present history lost
	// events in the middle of an epoch. Then every message counts that it neither has
	// nor had.
	inside bool
}

func (r *asideReader) run() error {
	packs, err := r.s.packs.Packs()
	if err != nil {
		return err
	}
	for _, n := range packs {
		r.packs[n] = true
	}
	if err := r.findFork(); err != nil {
		return err
	}
	r.out.Shared = r.fork.shared
	if err := r.changedAccounts(); err != nil {
		return err
	}
	r.account = &event.AccountRecord{}
	return r.x.each(event.SpanOf([]byte{event.PrefixMailbox}), func(key, value []byte) error {
		if err := r.ctx.Err(); err != nil {
			return storage.Errorf(storage.ErrUnavailable, "%w", context.Cause(r.ctx))
		}
		box := &event.MailboxRecord{}
		if err := unmarshal(value, box); err != nil {
			r.x.lose(keySpan(bytes.Clone(key)), "a mailbox cannot be read: %v", err)
			return nil
		}
		return r.mailbox(box)
	})
}

// load reads a record of the old state. One that cannot be read is named, and left
// empty.
func (r *asideReader) load(key []byte, into proto.Message) {
	v, found, err := r.x.Get(key)
	if err == nil && found {
		err = unmarshal(v, into)
	}
	if err != nil {
		proto.Reset(into)
		r.x.lose(keySpan(key), "a record cannot be read: %v", err)
	}
}

func (r *asideReader) findFork() error {
	var old event.SlotRecord
	var oldHead event.HeadRecord
	r.load(event.SlotKey(), &old)
	r.load(event.HeadKey(), &oldHead)
	rec := &event.SlotRecord{}
	if _, err := event.Load(r.now, event.SlotKey(), rec); err != nil {
		return err
	}
	head, _, err := r.now.head()
	if err != nil {
		return err
	}
	was := slot.Position(oldHead.Position)
	if head == was && slices.Equal(old.SlotLineage(), rec.SlotLineage()) {
		// It was set aside just now, and is still what this copy has.
		return storage.Errorf(storage.ErrUnavailable, "the master's state is not fetched yet")
	}
	f := fork{shared: old.SlotLineage().Shared(was, rec.SlotLineage(), head)}
	f.inside = f.shared == was || partsInside(old.SlotLineage(), rec.SlotLineage())
	f.unclean = event.ForkOf(rec, f.shared).Unclean
	r.fork = f
	return nil
}

const changedNamedMax = 20

// changedAccounts looks in the old journal for accounts that were changed beyond the
// shared point. It misses those in events that were trimmed since; mail is found without
// the journal.
func (r *asideReader) changedAccounts() error {
	seen := map[uint64]bool{}
	return r.x.each(journalSpan(r.fork.shared), func(key, value []byte) error {
		if err := r.ctx.Err(); err != nil {
			return storage.Errorf(storage.ErrUnavailable, "%w", context.Cause(r.ctx))
		}
		ev, err := event.Decode(value)
		if err != nil {
			r.x.lose(keySpan(bytes.Clone(key)), "an event cannot be read: %v", err)
			return nil
		}
		for _, c := range ev.Changes {
			a := c.GetAccount()
			if a == nil || seen[a.Id] {
				continue
			}
			seen[a.Id] = true
			if err := r.changedAccount(a.Id); err != nil {
				return err
			}
		}
		return nil
	})
}

// changedAccount counts an account of which the present history has another record.
func (r *asideReader) changedAccount(id uint64) error {
	old, now := &event.AccountRecord{}, &event.AccountRecord{}
	key := event.AccountKey(storage.AccountID(id))
	r.load(key, old)
	found, err := event.Load(r.now, key, now)
	if err != nil {
		return err
	}
	same := old.PasswordHash == now.PasswordHash && old.QuotaBytes == now.QuotaBytes && old.Disabled == now.Disabled && old.Deleted == now.Deleted
	if !found || same || old.Address == "" { // a new account is counted with its folders
		return nil
	}
	if r.out.ChangedAll++; r.out.ChangedAll <= changedNamedMax {
		r.out.Changed = append(r.out.Changed, old.Address)
	}
	return nil
}

// changedAfter reports whether a MODSEQ of the old state is beyond the shared point.
func (r *asideReader) changedAfter(modseq uint64) bool {
	return r.fork.inside || modseq > uint64(r.fork.shared)+r.account.ModseqBase
}

// partsInside reports whether the present history leaves the old one inside an epoch:
// by the jump of a master that stopped uncleanly, not by a new epoch.
func partsInside(old, present slot.Lineage) bool {
	i := 0
	for i < len(old) && i < len(present) && old[i] == present[i] {
		i++
	}
	return i > 0 && i < len(present) && present[i].Epoch == present[i-1].Epoch
}

func (r *asideReader) mailbox(old *event.MailboxRecord) error {
	if r.account.Id != old.Account {
		r.account, r.born, r.wrote = &event.AccountRecord{}, false, false
		key := event.AccountKey(storage.AccountID(old.Account))
		r.load(key, r.account)
		r.account.Id = old.Account
		var err error
		if _, r.known, err = r.now.Get(key); err != nil {
			return err
		}
	}
	if old.Deleted || r.account.Deleted {
		return nil // it was removed there too: nobody had it any more
	}
	now := &event.MailboxRecord{}
	there, err := event.Load(r.now, event.MailboxKey(old.Ref()), now)
	if err != nil {
		return err
	}
	from := storage.UID(1)
	// Where the marks do not tell, the MODSEQs do. One of the two histories may have
	// gone on without noticing the fork: the lower mark of both counts.
	marked := there && !r.fork.inside && event.SameUIDs(now, old)
	if marked {
		here, ok := event.BeganFrom(now, r.fork.unclean)
		before, too := event.BeganFrom(old, r.fork.unclean)
		if marked = ok && too; marked {
			from = min(here, before)
		}
	}
	switch {
	case marked:
	case !there && r.changedAfter(old.Changed):
		r.out.NewFolders++
		if !r.known && !r.born {
			r.out.NewUsers++
			r.born = true
		}
	}
	found := false
	if err := r.x.each(event.MessagesIn(old.Ref(), from, ^storage.UID(0)), func(key, value []byte) error {
		m := &event.MessageRecord{}
		if err := unmarshal(value, m); err != nil {
			r.x.lose(keySpan(bytes.Clone(key)), "a message cannot be read: %v", err)
			return nil
		}
		if !marked && !r.changedAfter(m.Modseq) {
			return nil // it is older than the shared point: what lacks it has deleted it
		}
		if had, err := r.had(now, m); err != nil || had {
			return err
		}
		found = true
		return r.message(old, m)
	}); err != nil {
		return err
	}
	if found {
		r.out.Folders++
		if !r.wrote {
			r.out.Users++
			r.wrote = true
		}
	}
	return nil
}

// had reports whether the present history has a message, or had it and deleted it.
func (r *asideReader) had(now *event.MailboxRecord, m *event.MessageRecord) (bool, error) {
	have := &event.MessageRecord{}
	found, err := event.Load(r.now, event.MessageKey(m.Ref(), storage.UID(m.Uid)), have)
	if err != nil || found && bytes.Equal(have.Guid, m.Guid) {
		return found, err
	}
	gone := &event.ExpungedRecord{}
	found, err = event.Load(r.now, event.ExpungedKey(m.Ref(), storage.UID(m.Uid)), gone)
	if err != nil || found && bytes.Equal(gone.Message.GetGuid(), m.Guid) {
		return found, err
	}
	// The tombstone may have been freed: then the floor is above it.
	return r.fork.inside && now.ExpungeFloorModseq > m.Modseq, nil
}

func (r *asideReader) message(box *event.MailboxRecord, m *event.MessageRecord) error {
	if err := r.ctx.Err(); err != nil {
		return storage.Errorf(storage.ErrUnavailable, "%w", context.Cause(r.ctx))
	}
	out := AsideMessage{Address: slot.Address(r.account.Address), Mailbox: box.Name, UID: storage.UID(m.Uid), Date: time.Unix(m.InternalDateUnix, 0).UTC(),
		Size: m.Size, GUID: m.Body().GUID}
	if r.account.Address == "" {
		out.Address = slot.Address(fmt.Sprintf("account %016x", m.Account))
	}
	if v, found, err := r.x.Get(event.SummaryKey(m.Ref(), out.UID)); err == nil && found {
		out.MessageID = messageID(v)
	} else if err != nil {
		r.x.lose(keySpan(event.SummaryKey(m.Ref(), out.UID)), "an envelope cannot be read: %v", err)
	}
	if v, found, err := r.x.Get(event.BodyKey(m.Body())); err == nil && found {
		loc, err := decodeLocation(v)
		out.Body = err == nil && r.packs[loc.Pack]
	}
	if !out.Body {
		have, err := r.s.keptBody(m.Body()) // this copy may have it for another message
		if err != nil {
			return err
		}
		out.Body = have
	}
	r.out.Messages++
	r.out.Bytes += m.Size
	if !out.Body {
		r.out.NoBody++
	}
	return r.fn(out)
}

// messageIDBytesMax bounds what is shown of a field that a stranger may have written.
const messageIDBytesMax = 250

// messageID reads the Message-ID from a stored summary, "" when there is none.
func messageID(summary []byte) string {
	sum, err := mime.ParseSummary(summary)
	if err != nil {
		return ""
	}
	line, ok := sum.HeaderFields([]string{"message-id"})
	if !ok {
		return ""
	}
	_, value, _ := bytes.Cut(line, []byte{':'})
	value = bytes.Join(bytes.Fields(value), []byte{' '}) // unfolded
	return string(bytes.ToValidUTF8(value[:min(len(value), messageIDBytesMax)], []byte{'?'}))
}

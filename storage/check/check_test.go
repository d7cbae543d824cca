package check_test

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"google.golang.org/protobuf/proto"

	"mailnode/storage"
	"mailnode/storage/check"
	"mailnode/storage/event"
	"mailnode/storage/local"
	"mailnode/storage/slot"
)

// memory is a snapshot that a test can damage.
type memory struct {
	records map[string][]byte
	bodies  map[slot.BodyRef]error
}

func (m memory) Get(key []byte) ([]byte, bool, error) {
	v, ok := m.records[string(key)]
	return v, ok, nil
}

func (m memory) Each(sp event.Span, fn func(key, value []byte) error) error {
	for _, k := range slices.Sorted(maps.Keys(m.records)) {
		if k >= string(sp.Lower) && (sp.Upper == nil || k < string(sp.Upper)) {
			if err := fn([]byte(k), m.records[k]); err != nil {
				return err
			}
		}
	}
	return nil
}

func (m memory) ProveBody(ref slot.BodyRef) error { return m.bodies[ref] }

// key returns the first key with a prefix.
func (m memory) key(t *testing.T, prefix byte) string {
	t.Helper()
	for _, k := range slices.Sorted(maps.Keys(m.records)) {
		if k[0] == prefix {
			return k
		}
	}
	t.Fatalf("no record with prefix %q", prefix)
	return ""
}

// change rewrites the first record with a prefix.
func change[T any, M interface {
	*T
	proto.Message
}](t *testing.T, m memory, prefix byte, fn func(M)) {
	t.Helper()
	k := m.key(t, prefix)
	rec := M(new(T))
	if err := proto.Unmarshal(m.records[k], rec); err != nil {
		t.Fatal(err)
	}
	fn(rec)
	m.records[k] = event.Marshal(rec)
}

// sound makes a real slot with a bit of everything and takes its records.
func sound(t *testing.T) memory {
	t.Helper()
	ctx := context.Background()
	r := local.NewResources(1 << 20)
	t.Cleanup(r.Close)
	s, err := local.Open(local.Options{FS: vfs.NewMem(), Dir: "/s", Cluster: "test", Logger: slog.New(slog.DiscardHandler),
		Clock: storage.SystemClock(), Resources: r, Passwords: local.NewPasswords(1)})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	m, err := s.Serve(ctx, 1, 0, local.NoGate{})
	if err != nil {
		t.Fatal(err)
	}
	a, err := m.CreateAccount(ctx, "u1@example.test", "pw", 0)
	if err != nil {
		t.Fatal(err)
	}
	for range 3 {
		sp := (&storage.SpoolDir{FS: vfs.NewMem(), Dir: "/"}).New()
		io.WriteString(sp, "Subject: x\r\n\r\nx\r\n")
		if err := m.Deliver(ctx, storage.Delivery{Body: sp, Recipients: []storage.Recipient{{Account: a.ID}}})[0]; err != nil {
			t.Fatal(err)
		}
	}
	box, err := m.Mailbox(ctx, a.ID, "INBOX")
	if err != nil {
		t.Fatal(err)
	}
	ref := storage.Ref{Account: a.ID, Mailbox: box.ID}
	_, err1 := m.SetFlags(ctx, ref, []storage.UID{3}, storage.FlagChange{Flags: storage.Flags{System: storage.Deleted}})
	_, err2 := m.Expunge(ctx, ref, nil)
	if err := errors.Join(err1, err2); err != nil {
		t.Fatal(err)
	}
	out := memory{records: map[string][]byte{}, bodies: map[slot.BodyRef]error{}}
	if err := s.Snapshot(func(x local.Snapshot) error {
		for _, p := range append(event.StatePrefixes(), event.PrefixJournal) {
			if err := x.Each(event.SpanOf([]byte{p}), func(k, v []byte) error {
				out.records[string(k)] = slices.Clone(v)
				return nil
			}); err != nil {
				return err
			}
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	return out
}

// damage is one thing that is not as it should be, and the finding expected.
type damage struct {
	name   string
	damage func(*testing.T, memory)
	law    int // 0: no finding is expected
	text   string
}

func bad(p byte) func(*testing.T, memory) {
	return func(t *testing.T, m memory) { m.records[m.key(t, p)] = []byte{0xff} }
}

func gone(p byte) func(*testing.T, memory) {
	return func(t *testing.T, m memory) { delete(m.records, m.key(t, p)) }
}

// accountDamage is of accounts, addresses and mailboxes.
func accountDamage() []damage {
	return []damage{
		{"nothing", func(*testing.T, memory) {}, 0, ""},
		{"account unreadable", bad(event.PrefixAccount), 6, "cannot be read"},
		{"account gone", gone(event.PrefixAccount), 8, "does not exist"},
		{"account's UIDVALIDITY counter too low", func(t *testing.T, m memory) {
			change(t, m, event.PrefixAccount, func(a *event.AccountRecord) { a.UidvalidityNext = 1 })
		}, 2, "was never given out"},
		{"address under another key", func(t *testing.T, m memory) {
			change(t, m, event.PrefixAddress, func(a *event.AddressRecord) { a.Address = "x@y.test" })
		}, 6, "is under"},
		{"mailbox unreadable", bad(event.PrefixMailbox), 6, "cannot be read"},
		{"mailbox renamed", func(t *testing.T, m memory) {
			change(t, m, event.PrefixMailbox, func(b *event.MailboxRecord) { b.Name = "other" })
		}, 8, "not in the name index"},
		{"doubled UIDVALIDITY", func(t *testing.T, m memory) {
			var other uint32 // of any mailbox but the first, which change() takes
			for i, k := range slices.DeleteFunc(slices.Sorted(maps.Keys(m.records)), func(k string) bool { return k[0] != event.PrefixMailbox }) {
				b := &event.MailboxRecord{}
				if err := proto.Unmarshal(m.records[k], b); err != nil {
					t.Fatal(err)
				}
				if i > 0 {
					other = b.Uidvalidity
				}
			}
			change(t, m, event.PrefixMailbox, func(b *event.MailboxRecord) { b.Uidvalidity = other })
		}, 2, "is also that of"},
	}
}

// messageDamage is of names, messages and envelopes.
func messageDamage() []damage {
	return []damage{
		{"name leads elsewhere", func(t *testing.T, m memory) { m.records[m.key(t, event.PrefixName)][7] ^= 1 }, 8, "leads to"},
		{"name of nothing", func(t *testing.T, m memory) {
			m.records[m.key(t, event.PrefixName)+"x"] = make([]byte, 8)
		}, 8, "leads to no mailbox"},
		{"message unreadable", bad(event.PrefixMessage), 6, "cannot be read"},
		{"message gone", gone(event.PrefixMessage), 8, "digest"},
		{"message's flags changed", func(t *testing.T, m memory) {
			change(t, m, event.PrefixMessage, func(r *event.MessageRecord) { r.SystemFlags ^= 1 })
		}, 8, "digest"},
		{"message's MODSEQ above the head", func(t *testing.T, m memory) {
			change(t, m, event.PrefixMessage, func(r *event.MessageRecord) { r.Modseq += 1 << 50 })
		}, 3, "above the head"},
		{"message at UIDNEXT", func(t *testing.T, m memory) {
			change(t, m, event.PrefixMessage, func(r *event.MessageRecord) { r.Uid = 99 })
		}, 2, "UIDNEXT"},
		{"stray message", func(t *testing.T, m memory) {
			m.records[string(event.MessageKey(storage.Ref{Account: 1, Mailbox: 2}, 3))] = nil
		}, 8, "does not exist"},
		{"envelope gone", gone(event.PrefixSummary), 8, "envelope is missing"},
		{"envelope damaged", bad(event.PrefixSummary), 6, "envelope is damaged"},
	}
}

// slotDamage is of tombstones, derived records, the journal and bodies.
func slotDamage() []damage {
	return []damage{
		{"tombstone empty", func(t *testing.T, m memory) { m.records[m.key(t, event.PrefixExpunged)] = nil }, 6, "tombstone is empty"},
		{"live and expunged", func(t *testing.T, m memory) {
			k := m.key(t, event.PrefixMessage)
			r := &event.MessageRecord{}
			if err := proto.Unmarshal(m.records[k], r); err != nil {
				t.Fatal(err)
			}
			m.records[string(event.ExpungedKey(r.Ref(), storage.UID(r.Uid)))] = event.Marshal(&event.ExpungedRecord{Message: r})
		}, 2, "live and expunged"},
		{"change index lacks one", gone(event.PrefixChanged), 3, "change index does not have it"},
		{"change index has one more", func(t *testing.T, m memory) { m.records[m.key(t, event.PrefixChanged)[:25]+"\x00\x00\x00\x63"] = nil }, 3, "no message has"},
		{"counters gone", gone(event.PrefixUsage), 8, "are counted"},
		{"counters wrong", func(t *testing.T, m memory) {
			change(t, m, event.PrefixUsage, func(u *event.AccountStats) { u.Bytes++ })
		}, 8, "are counted"},
		{"head moved", func(t *testing.T, m memory) {
			m.records[string(event.HeadKey())] = event.Marshal(&event.HeadRecord{Position: 1<<40 | 999})
		}, 8, "the journal ends at"},
		{"head of another epoch", func(t *testing.T, m memory) {
			m.records[string(event.HeadKey())] = event.Marshal(&event.HeadRecord{Position: 2<<40 | 1})
		}, 4, "the lineage ends"},
		{"lineage out of order", func(t *testing.T, m memory) {
			m.records[string(event.SlotKey())] = event.Marshal(&event.SlotRecord{Lineage: []*event.Branch{{Epoch: 2}, {Epoch: 1}}})
		}, 2, "lineage"},
		{"event damaged", func(t *testing.T, m memory) { m.records[m.key(t, event.PrefixJournal)][6] ^= 1 }, 6, "checksum"},
		{"event gone", func(t *testing.T, m memory) {
			delete(m.records, string(event.JournalKey(1<<40|3)))
		}, 8, "follows"},
		{"body damaged", func(t *testing.T, m memory) {
			change(t, m, event.PrefixMessage, func(r *event.MessageRecord) { m.bodies[r.Body()] = storage.ErrCorrupt })
		}, 1, "its body"},
	}
}

// Damage of each kind is named, with the law that it breaks; what is sound has
// no findings.
func TestDamageIsNamed(t *testing.T) {
	whole := sound(t)
	for _, tt := range slices.Concat(accountDamage(), messageDamage(), slotDamage()) {
		t.Run(tt.name, func(t *testing.T) {
			m := memory{records: map[string][]byte{}, bodies: map[slot.BodyRef]error{}}
			for k, v := range whole.records {
				m.records[k] = slices.Clone(v)
			}
			tt.damage(t, m)
			found, err := check.Run(m, check.Options{Bodies: true})
			if err != nil {
				t.Fatal(err)
			}
			named := slices.ContainsFunc(found, func(f check.Finding) bool { return f.Law == tt.law && strings.Contains(f.String(), tt.text) })
			if named != (tt.law != 0) || tt.law == 0 && len(found) > 0 {
				t.Errorf("found %v", found)
			}
		})
	}
}

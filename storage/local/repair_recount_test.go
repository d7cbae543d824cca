package local

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2"

	"mailnode/storage"
	"mailnode/storage/check"
	"mailnode/storage/event"
	"mailnode/storage/mime"
	"mailnode/storage/slot"
)

// recountFindings runs the checker on what is durable.
func recountFindings(t *testing.T, s *Slot) []string {
	t.Helper()
	var out []string
	if err := s.Snapshot(func(x Snapshot) error {
		found, err := check.Run(x, check.Options{Bodies: true})
		for _, f := range found {
			out = append(out, f.String())
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
	return out
}

// runRecount runs Recount and returns its lines.
func runRecount(t *testing.T, s *Slot, sc Scope) (Recounted, []string) {
	t.Helper()
	var lines []string
	got, err := s.Recount(context.Background(), sc, RecountOptions{Found: func(l string) { lines = append(lines, l) }})
	if err != nil {
		t.Fatal(err)
	}
	return got, lines
}

// behind writes to the index behind the store's back.
func behind(t *testing.T, s *Slot, write func(b *pebble.Batch)) {
	t.Helper()
	b := s.db.NewBatch()
	write(b)
	if err := s.db.Apply(b, pebble.Sync); err != nil {
		t.Fatal(err)
	}
	s.install(s.newView())
}

// recordsOf returns the records under a prefix.
func recordsOf(t *testing.T, s *Slot, prefix byte) (keys, values [][]byte) {
	t.Helper()
	if err := s.Snapshot(func(x Snapshot) error {
		return x.Each(event.SpanOf([]byte{prefix}), func(k, v []byte) error {
			keys, values = append(keys, bytes.Clone(k)), append(values, bytes.Clone(v))
			return nil
		})
	}); err != nil {
		t.Fatal(err)
	}
	return keys, values
}

// furnished makes a slot with a bit of everything.
func furnished(t *testing.T) (*Slot, *Master, storage.Account) {
	t.Helper()
	s := openSlot(t, options(t, newFS(t)))
	m := serve(t, s, 1, 0)
	a, b := account(t, m, "u1@example.test"), account(t, m, "u2@example.test")
	for i := range 12 {
		deliver(t, m, mail(i), a, b)
	}
	box, _ := inbox(t, m, a)
	ref := storage.Ref{Account: a.ID, Mailbox: box.ID}
	ctx := context.Background()
	_, err1 := m.SetFlags(ctx, ref, []storage.UID{2, 3}, storage.FlagChange{Op: storage.FlagsAdd, Flags: storage.Flags{System: storage.Deleted}})
	_, err2 := m.SetFlags(ctx, ref, []storage.UID{5, 6}, storage.FlagChange{Op: storage.FlagsAdd, Flags: storage.Flags{System: storage.Seen}})
	_, err3 := m.Expunge(ctx, ref, []storage.UID{2})
	_, err4 := m.Copy(ctx, ref, []storage.UID{4, 5}, "Archive")
	_, err5 := m.CreateMailbox(ctx, a.ID, "old", "")
	_, err6 := m.Copy(ctx, ref, []storage.UID{7}, "old")
	if err := errors.Join(err1, err2, err3, err4, err5, err6, m.DeleteMailbox(ctx, a.ID, "old")); err != nil {
		t.Fatal(err)
	}
	return s, m, a
}

// damageRow is one way in which a derived record is wrong; check and line are what the
// checker and Recount must write about it.
type damageRow struct {
	name   string
	prefix byte
	damage damageFunc
	check  string
	line   string
}

type damageFunc = func(b *pebble.Batch, keys, values [][]byte)

func set(v []byte) damageFunc {
	return func(b *pebble.Batch, keys, _ [][]byte) { b.Set(keys[0], v, nil) }
}

func gone(b *pebble.Batch, keys, _ [][]byte) { b.Delete(keys[0], nil) }

func allGone(b *pebble.Batch, keys, _ [][]byte) {
	for _, k := range keys {
		b.Delete(k, nil)
	}
}

func add(k, v []byte) damageFunc {
	return func(b *pebble.Batch, _, _ [][]byte) { b.Set(k, v, nil) }
}

func wrongStats(b *pebble.Batch, keys, values [][]byte) {
	for i := range keys {
		st := &event.MailboxStats{}
		if unmarshal(values[i], st) == nil && st.Messages > 5 {
			st.Messages, st.Unseen, st.Bytes, st.Digest = st.Messages-3, 99, 7, event.Digest{Hi: 1, Lo: 2}.Bytes()
			b.Set(keys[i], event.Marshal(st), nil)
		}
	}
}

func highest(to uint64) damageFunc {
	return func(b *pebble.Batch, keys, values [][]byte) {
		st := &event.MailboxStats{}
		if unmarshal(values[0], st) == nil {
			st.HighestModseq = to
			b.Set(keys[0], event.Marshal(st), nil)
		}
	}
}

// otherEnvelope replaces the envelope of a message by that of one of another size.
func otherEnvelope(b *pebble.Batch, keys, values [][]byte) {
	own, err := mime.ParseSummary(values[0])
	for _, v := range values {
		if other, oerr := mime.ParseSummary(v); err == nil && oerr == nil && other.Size() != own.Size() {
			b.Set(keys[0], v, nil)
			return
		}
	}
}

func nowhere() storage.Ref { return storage.Ref{Account: 1, Mailbox: 2} }

// derivedDamage damages each kind of derived record in all ways: wrong, missing, extra,
// unreadable.
func derivedDamage() []damageRow {
	return slices.Concat(counterDamage(), accountDamage(), changeDamage(), summaryDamage())
}

func counterDamage() []damageRow {
	return []damageRow{
		{"counters wrong", event.PrefixStats, wrongStats, "its counters are", "its counters said"},
		{"counters missing", event.PrefixStats, allGone, "its digest is", "its counters said 0 messages"},
		{"counters unreadable", event.PrefixStats, func(b *pebble.Batch, keys, _ [][]byte) {
			for _, k := range keys {
				b.Set(k, []byte{0xff}, nil)
			}
		}, "read record", "could not be read"},
		{"counters of nothing", event.PrefixStats, add(event.StatsKey(nowhere()), event.Marshal(&event.MailboxStats{Messages: 1})), "which does not exist", "does not exist"},
		{"HIGHESTMODSEQ too low", event.PrefixStats, highest(1), "HIGHESTMODSEQ", "highest MODSEQ 1,"},
		{"HIGHESTMODSEQ above the head", event.PrefixStats, highest(1 << 60), "above the head", "highest MODSEQ 1152921504606846976"},
	}
}

func accountDamage() []damageRow {
	return []damageRow{
		{"quota use wrong", event.PrefixUsage, set(event.Marshal(&event.AccountStats{Bytes: 1 << 40})), "are counted", "its quota use said"},
		{"quota use negative", event.PrefixUsage, set(event.Marshal(&event.AccountStats{Bytes: -5})), "-5 bytes are counted", "its quota use said -5"},
		{"quota use missing", event.PrefixUsage, gone, "0 bytes are counted", "its quota use said 0"},
		{"quota use unreadable", event.PrefixUsage, set([]byte{0xff}), "cannot be read", "could not be read"},
		{"quota use of nobody", event.PrefixUsage, add(event.UsageKey(9), event.Marshal(&event.AccountStats{Bytes: 5})), "5 bytes are counted", "its quota use said 5"},
		{"name leads elsewhere", event.PrefixName, set(make([]byte, 8)), "leads to mailbox", "did not lead to its mailbox"},
		{"name missing", event.PrefixName, gone, "not in the name index", "did not lead to its mailbox"},
		{"name of nothing", event.PrefixName, func(b *pebble.Batch, keys, values [][]byte) { b.Set(append(keys[0], 'x'), values[0], nil) }, "leads to no mailbox", "led to no mailbox"},
		{"name unreadable", event.PrefixName, set([]byte("x")), "leads to mailbox", "did not lead to its mailbox"},
	}
}

func changeDamage() []damageRow {
	return []damageRow{
		{"change missing", event.PrefixChanged, gone, "change index does not have it", "did not have it"},
		{"all changes missing", event.PrefixChanged, allGone, "change index does not have it", "did not have it"},
		{"change of no message", event.PrefixChanged, func(b *pebble.Batch, keys, _ [][]byte) {
			b.Set(event.ChangedKey(event.RefOf(keys[0]), 1, 999), nil, nil)
		}, "no message has", "uid 999: an entry"},
		{"change unreadable", event.PrefixChanged, func(b *pebble.Batch, keys, _ [][]byte) { b.Set(append(keys[0], 1, 2), nil, nil) }, "no message has", "an entry of the change index"},
		{"changes of nothing", event.PrefixChanged, add(event.ChangedKey(nowhere(), 1, 1), nil), "which does not exist", "does not exist"},
	}
}

func summaryDamage() []damageRow {
	return []damageRow{
		{"envelope wrong", event.PrefixSummary, otherEnvelope, "envelope is damaged", "is made from its body"},
		{"envelope missing", event.PrefixSummary, gone, "envelope is missing", "is made from its body"},
		{"envelope unreadable", event.PrefixSummary, set([]byte{0xff}), "envelope is damaged", "is made from its body"},
		{"envelope of no message", event.PrefixSummary, func(b *pebble.Batch, keys, values [][]byte) {
			b.Set(event.SummaryKey(event.RefOf(keys[0]), 999), values[0], nil)
		}, "an envelope that no message has", "uid 999: an envelope"},
		{"envelope of nothing", event.PrefixSummary, add(event.SummaryKey(nowhere(), 1), nil), "which does not exist", "does not exist"},
		{"references wrong", event.PrefixRefs, set([]byte{77}), "77 references", "77 references were counted"},
		{"references missing", event.PrefixRefs, gone, "0 references on record", "0 references were counted"},
		{"references unreadable", event.PrefixRefs, set([]byte{0x80}), "references on record", "could not be read"},
		{"references of no body", event.PrefixRefs, add(event.RefsKey(slot.BodyRef{ID: 5}), []byte{3}), "3 references", "3 references were counted; 0"},
		{"references under a bad key", event.PrefixRefs, add([]byte{event.PrefixRefs, 1, 2}, []byte{3}), "counts no body", "belong to no body"},
	}
}

// For anything wrong with a derived record: the checker finds it, Recount mends it and
// names what it found, and clients see what they saw before.
func TestRecountMendsEveryDerivedRecord(t *testing.T) {
	s, m, a := furnished(t)
	other := m
	b, err := other.Accounts(context.Background())
	if err != nil || len(b) != 2 {
		t.Fatal(b, err)
	}
	deliver(t, m, mail(99)+strings.Repeat("long ", 100), b[0], b[1]) // the last envelope is of another size
	want := dumpStore(t, m)
	was := seenBy(t, m, b)
	for _, tt := range derivedDamage() {
		t.Run(tt.name, func(t *testing.T) {
			if found := recountFindings(t, s); len(found) > 0 {
				t.Fatalf("before: %v", found)
			}
			keys, values := recordsOf(t, s, tt.prefix)
			behind(t, s, func(batch *pebble.Batch) { tt.damage(batch, keys, values) })
			if found := recountFindings(t, s); !slices.ContainsFunc(found, func(f string) bool { return strings.Contains(f, tt.check) }) {
				t.Errorf("the checker found %q, want %q", found, tt.check)
			}
			got, lines := runRecount(t, s, Scope{})
			if got.Wrong == 0 || got.Unreadable != 0 || !slices.ContainsFunc(lines, func(l string) bool { return strings.Contains(l, tt.line) }) {
				t.Errorf("Recount: %+v, %q, want %q", got, lines, tt.line)
			}
			if found := recountFindings(t, s); len(found) > 0 {
				t.Errorf("after: %v", found)
			}
			is := seenBy(t, m, b)
			sameNumbers(t, was, is)
			if text := dumpStore(t, m); text != want || tt.name != "HIGHESTMODSEQ above the head" && !maps.Equal(is.modseq, was.modseq) {
				t.Errorf("clients see\n%s%v\nthey saw\n%s%v", text, is.modseq, want, was.modseq)
			}
			was = is
			if again, lines := runRecount(t, s, Scope{}); again.Wrong != 0 {
				t.Errorf("a second Recount found %q", lines)
			}
		})
	}
	_ = a
}

// An account or a mailbox can be recounted alone.
func TestRecountOfAScope(t *testing.T) {
	s, m, a := furnished(t)
	box, _ := inbox(t, m, a)
	ref := storage.Ref{Account: a.ID, Mailbox: box.ID}
	for _, sc := range []Scope{{Account: a.ID}, {Account: a.ID, Mailbox: box.ID}} {
		behind(t, s, func(b *pebble.Batch) {
			b.Set(event.StatsKey(ref), []byte{0xff}, nil)
			b.Set(event.UsageKey(a.ID), []byte{0xff}, nil)
			b.Delete(event.SummaryKey(ref, 3), nil)
		})
		if got, lines := runRecount(t, s, sc); got.Wrong != 3 {
			t.Errorf("%+v: %+v %q", sc, got, lines)
		}
		if found := recountFindings(t, s); len(found) > 0 {
			t.Errorf("%+v: %v", sc, found)
		}
	}
}

// Counters are right although the mailboxes change while they are recounted.
func TestRecountWhileMailComes(t *testing.T) {
	sd := seed(t)
	rng := rand.New(rand.NewPCG(sd, 1))
	s := openSlot(t, options(t, newFS(t)))
	m := serve(t, s, 1, 0)
	w := newWalk(t, m, rand.New(rand.NewPCG(sd, 2)), 3)
	stop := make(chan struct{})
	var busy sync.WaitGroup
	busy.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
				w.step()
			}
		}
	})
	rounds, wrong := 0, 0
	for began := time.Now(); time.Since(began) < 2*time.Second || rounds < 4; rounds++ {
		err := s.do(context.Background(), func(tx *txn) error { // between two events, as damage lies there
			return spoilRecord(tx, rng)
		})
		if err != nil {
			t.Fatal(err)
		}
		got, _ := runRecount(t, s, Scope{})
		wrong += got.Wrong
	}
	close(stop)
	busy.Wait()
	got, _ := runRecount(t, s, Scope{})
	if found := recountFindings(t, s); len(found) > 0 || rounds < 3 || wrong == 0 {
		t.Errorf("after %d rounds (%d wrong, then %d): %v", rounds, wrong, got.Wrong, found)
	}
	if text, want := dumpStore(t, m), w.model.dump(); text != want {
		t.Errorf("the store has\n%s\nthe model\n%s", text, want)
	}
}

// spoilRecord makes counters wrong, each by another amount.
func spoilRecord(tx *txn, rng *rand.Rand) error {
	wrong := map[string][]byte{}
	if err := each(tx, event.SpanOf([]byte{event.PrefixStats}), func(k, v []byte) error {
		st := &event.MailboxStats{}
		err := unmarshal(v, st)
		st.Messages += uint32(rng.IntN(5))
		st.Bytes += rng.Int64N(1000)
		st.Digest = event.ParseDigest(st.Digest).Add(event.Digest{Lo: rng.Uint64()}).Bytes()
		wrong[string(k)] = event.Marshal(st)
		return err
	}); err != nil {
		return err
	}
	if err := each(tx, event.SpanOf([]byte{event.PrefixUsage}), func(k, v []byte) error {
		u := &event.AccountStats{}
		err := unmarshal(v, u)
		u.Bytes += rng.Int64N(1000)
		wrong[string(k)] = event.Marshal(u)
		return err
	}); err != nil {
		return err
	}
	if err := each(tx, event.SpanOf([]byte{event.PrefixRefs}), func(k, v []byte) error {
		if n, err := event.ParseRefs(event.BodyOf(k), v); err == nil && rng.IntN(3) == 0 && n < 100 {
			wrong[string(k)] = []byte{byte(n) + 1}
		}
		return nil
	}); err != nil {
		return err
	}
	for k, v := range wrong {
		if err := tx.b.Set([]byte(k), v, nil); err != nil {
			return err
		}
	}
	return nil
}

// A counter that went wrong never blocks mail, and is reported.
func TestQuotaCounterNeverBlocksMail(t *testing.T) {
	for _, raw := range [][]byte{{0xff}, event.Marshal(&event.AccountStats{Bytes: 1 << 50})} {
		t.Run(fmt.Sprintf("%x", raw), func(t *testing.T) {
			var mu sync.Mutex
			var told []error
			o := options(t, newFS(t))
			o.OnDamage = func(d Damage) { mu.Lock(); defer mu.Unlock(); told = append(told, d.Err) }
			s := openSlot(t, o)
			m := serve(t, s, 1, 0)
			a, err := m.CreateAccount(context.Background(), "u1@example.test", "pw", 4000)
			if err != nil {
				t.Fatal(err)
			}
			deliver(t, m, mail(1), a)
			behind(t, s, func(b *pebble.Batch) { b.Set(event.UsageKey(a.ID), raw, nil) })
			deliver(t, m, mail(2), a)
			mu.Lock()
			n := len(told)
			mu.Unlock()
			if n == 0 {
				t.Error("nobody was told of the counter")
			}
			if shown, err := m.Account(context.Background(), a.ID); err != nil {
				t.Errorf("account: %+v, %v", shown, err)
			}
			runRecount(t, s, Scope{Account: a.ID})
			errs := m.Deliver(context.Background(), storage.Delivery{Body: body(t, strings.Repeat("x", 4000)), Recipients: []storage.Recipient{{Account: a.ID}}})
			if !errors.Is(errs[0], storage.ErrOverQuota) {
				t.Errorf("over quota: %v", errs[0])
			}
		})
	}
}

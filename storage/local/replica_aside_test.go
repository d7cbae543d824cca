package local

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"mailnode/storage"
	"mailnode/storage/event"
	"mailnode/storage/slot"
)

// setAsideWithMail sets a state with n messages aside, and lets the copy go on
// with the history that has none of them.
func setAsideWithMail(t *testing.T, o Options, n int) (s *Slot, name string) {
	t.Helper()
	ctx := context.Background()
	s = openSlot(t, o)
	m := serve(t, s, 1, 0)
	a := account(t, m, "u1@example.test")
	before := wholeState(t, s)
	for i := range n {
		deliver(t, m, mail(i), a)
	}
	m.Stop()
	if err := s.MarkAlone(ctx, slot.At(1, 2)); err != nil {
		t.Fatal(err)
	}
	name, err := s.SetAside(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.ReadAside(ctx, name, nil); !errors.Is(err, storage.ErrUnavailable) {
		t.Errorf("read while it is still the present state: %v", err)
	}
	if err := s.BeginImport(ctx); err != nil {
		t.Fatal(err)
	}
	if _, err := s.ReadAside(ctx, name, nil); !errors.Is(err, storage.ErrUnavailable) {
		t.Errorf("read while the present state is being fetched: %v", err)
	}
	if err := s.ImportRecords(ctx, before.rest); err != nil {
		t.Fatal(err)
	}
	if err := s.FinishImport(ctx, before.own); err != nil {
		t.Fatal(err)
	}
	m = serve(t, s, 2, 1)
	t.Cleanup(m.Stop)
	deliver(t, m, mail(-1), a)
	return s, name
}

// That a person has looked is remembered over a restart; a damaged note counts as nobody.
// What was set aside stays in any case.
func TestLaw07DismissedStateStays(t *testing.T) {
	o := options(t, newFS(t))
	s, name := setAsideWithMail(t, o, 3)
	count := func() int {
		t.Helper()
		n := 0
		if _, err := s.ReadAside(t.Context(), name, func(AsideMessage) error { n++; return nil }); err != nil {
			t.Fatal(err)
		}
		return n
	}
	the := func() Aside {
		t.Helper()
		list, err := s.Asides()
		if err != nil || len(list) != 1 || list[0].Name != name {
			t.Fatalf("%+v, %v", list, err)
		}
		return list[0]
	}
	if a := the(); a.Seen != nil || a.Role != AsideMaster || a.Alone == nil || !a.MayBeAcknowledged() || count() != 3 {
		t.Errorf("%+v, %d messages", a, count())
	}
	for _, wrong := range []string{"diverged-9-9", "../packs", "diverged-1-2/..", "", "event-1-2"} {
		if err := s.DismissAside(wrong, Seen{}); err == nil {
			t.Errorf("%q was dismissed", wrong)
		}
	}
	if err := s.DismissAside(name, Seen{By: "root", Why: strings.Repeat("ä", 600) + "\n"}); err != nil {
		t.Fatal(err)
	}
	closeOnce(t, s)
	s = openSlot(t, o)
	if a := the(); a.Seen == nil || a.Seen.By != "root" || count() != 3 {
		t.Errorf("after a restart: %+v, %d messages", a, count())
	}
	f, err := o.FS.OpenReadWrite(o.FS.PathJoin(o.Dir, "quarantine", name, seenFile), "test")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt([]byte("x"), 3); err != nil {
		t.Fatal(err)
	}
	f.Close()
	if a := the(); a.Seen != nil || count() != 3 {
		t.Errorf("with a damaged note: %+v", a)
	}
}

// Any file of a state that was set aside is damaged: what is listed was there, and what
// cannot be read is named.
func TestLaw06Law07DamagedStateIsListedAsFarAsItGoes(t *testing.T) {
	o := options(t, newFS(t))
	s, name := setAsideWithMail(t, o, 40)
	dir := o.FS.PathJoin(o.Dir, "quarantine", name)
	files, err := o.FS.List(dir)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := s.ReadAside(t.Context(), name, func(AsideMessage) error { return nil }); err != nil || got.Messages != 40 || got.NoBody != 0 || len(got.Unread) != 0 {
		t.Fatalf("undamaged: %+v, %v", got, err)
	}
	for _, file := range files {
		path := o.FS.PathJoin(dir, file)
		st, err := o.FS.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		for at := int64(0); at < st.Size(); at += max(1, st.Size()/7) {
			flipBit(t, o.FS, path, at)
			seen := map[string]bool{}
			got, err := s.ReadAside(t.Context(), name, func(m AsideMessage) error {
				if k := fmt.Sprint(m.UID); seen[k] || m.UID < 1 || m.UID > 40 || m.MessageID != "" && m.MessageID != fmt.Sprintf("<%d@example.test>", m.UID-1) {
					t.Errorf("%s at %d: %+v", file, at, m)
				} else {
					seen[k] = true
				}
				return nil
			})
			if err != nil || got.Messages != len(seen) || len(seen) < 40 && len(got.Unread) == 0 {
				t.Errorf("%s at %d: %d messages, %+v, %v", file, at, len(seen), got, err)
			}
			flipBit(t, o.FS, path, at)
		}
	}
}

// stateRecords are all records of a state; those of the slot itself are kept apart.
type stateRecords struct{ rest, own []event.Record }

func wholeState(t *testing.T, s *Slot) (out stateRecords) {
	t.Helper()
	if err := s.ReadState(func(r event.Record) error {
		r = event.Record{Key: slices.Clone(r.Key), Value: slices.Clone(r.Value)}
		if r.Key[0] == event.PrefixSlot {
			out.own = append(out.own, r)
		} else {
			out.rest = append(out.rest, r)
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	return out
}

// A state that is set aside right after its copy was opened is whole: its list of
// files names the log that is there, although the flush of the start may not have
// ended. Else every such state would be said to be not all readable.
func TestLaw07SetAsideRightAfterTheStartIsWhole(t *testing.T) {
	for i := range 40 {
		o := options(t, newFS(t))
		s := openSlot(t, o)
		m := serve(t, s, 1, 0)
		deliver(t, m, mail(i), account(t, m, "u1@example.test"))
		m.Stop()
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		s = openSlot(t, o)
		name, err := s.SetAside(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		x := openSalvage(s, o.FS.PathJoin(o.Dir, "quarantine", name))
		if !x.Whole() {
			t.Errorf("run %d: %v", i, x.Why)
		}
		x.Close()
	}
}

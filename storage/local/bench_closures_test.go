package local

import (
	"fmt"
	"testing"
	"time"

	"mailnode/storage"
	"mailnode/storage/slot"
)

// BenchmarkClosures runs the largest closures of each kind, one user's, and reports how
// long the longest kept the others of its slot waiting.
func BenchmarkClosures(b *testing.B) {
	const messages = 20_000
	x := newOpenBench(b, messages)
	ctx := b.Context()
	var most time.Duration
	x.s.o.Resources.OnClosure = func(took time.Duration) { most = max(most, took) }
	var users []storage.Recipient
	for i := range deliverRecipientsMax {
		a, err := x.m.CreateAccount(ctx, slot.Address(fmt.Sprintf("r%d@example.test", i)), "pw", 0)
		if err != nil {
			b.Fatal(err)
		}
		users = append(users, storage.Recipient{Account: a.ID})
	}
	bigTree(b, x.m, x.ref.Account, smallMax-1)
	uids := func(n, from int) (out []storage.UID) {
		for i := range n {
			out = append(out, storage.UID(1+(from+i)%messages))
		}
		return out
	}
	at, named := 0, 0
	for _, kind := range []struct {
		name string
		run  func() error
	}{
		{"deliver to 100", func() error {
			for _, err := range x.m.Deliver(ctx, storage.Delivery{Body: spooled(mail(1)), Recipients: users}) {
				if err != nil {
					return err
				}
			}
			return nil
		}},
		{"copy 100", func() error {
			at += copyMax
			_, err := x.m.Copy(ctx, x.ref, uids(copyMax, at), "Archive")
			return err
		}},
		{"rename 100 mailboxes", func() error {
			named++
			return x.m.RenameMailbox(ctx, x.ref.Account, fmt.Sprintf("top %d", named-1), fmt.Sprintf("top %d", named))
		}},
		{"flag 100", func() error {
			at += smallMax
			_, err := x.m.SetFlags(ctx, x.ref, uids(smallMax, at), storage.FlagChange{Op: storage.FlagsAdd, Flags: storage.Flags{System: storage.Deleted}})
			return err
		}},
		{"move 100", func() error {
			at += smallMax
			_, err := x.m.Move(ctx, x.ref, uids(smallMax, at), "Trash")
			return err
		}},
		{"expunge 100", func() error {
			at += smallMax
			_, err := x.m.Expunge(ctx, x.ref, uids(smallMax, at))
			return err
		}},
	} {
		b.Run(kind.name, func(b *testing.B) {
			most = 0
			for b.Loop() {
				if err := kind.run(); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(most.Microseconds())/1e3, "longest-ms")
		})
	}
}

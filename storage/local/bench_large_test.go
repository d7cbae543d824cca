package local

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"mailnode/storage"
)

// BenchmarkBesideLarge changes a flag of one user again and again, on a disk, while large
// changes of another run. It measures how long the first waits, and how many changes he
// makes meanwhile (beside/op). "small" is 500 flags of the other, for comparison.
func BenchmarkBesideLarge(b *testing.B) {
	const messages, mailboxes = 30_000, 10_000
	x := newOpenBench(b, messages)
	bigTree(b, x.m, x.ref.Account, mailboxes)
	all := make([]storage.UID, messages)
	for i := range all {
		all[i] = storage.UID(i + 1)
	}
	other, err := x.m.CreateAccount(b.Context(), "u2@example.test", "pw", 0)
	if err != nil {
		b.Fatal(err)
	}
	beside := flagger(x.m, fill(b, x.m, other, "box", 1))
	small, renamed := flagger(x.m, x.ref), 0
	for _, large := range []struct {
		name string
		run  func() error
	}{
		{"small", func() (err error) {
			for i := 0; i < 500 && err == nil; i++ {
				err = small()
			}
			return err
		}},
		{"copy", func() error { _, err := x.m.Copy(b.Context(), x.ref, all, "Archive"); return err }},
		{"rename", func() error {
			renamed++
			return x.m.RenameMailbox(b.Context(), x.ref.Account, fmt.Sprintf("top %d", renamed-1), fmt.Sprintf("top %d", renamed))
		}},
	} {
		b.Run(large.name, func(b *testing.B) {
			var l lap
			for b.Loop() {
				for done, ended := started(large.run), false; !ended; {
					began := time.Now()
					if err := beside(); err != nil {
						b.Fatal(err)
					}
					l.latencies = append(l.latencies, time.Since(began))
					select {
					case err := <-done:
						if ended = true; err != nil {
							b.Fatal(err)
						}
					default:
					}
				}
			}
			for name, q := range map[string]float64{"p50-ms": 0.5, "p99-ms": 0.99, "max-ms": 1} {
				b.ReportMetric(float64(l.quantile(q).Microseconds())/1e3, name)
			}
			b.ReportMetric(float64(len(l.latencies))/float64(b.N), "beside/op")
		})
	}
}

// flagger returns a function that sets a flag of a mailbox's first message, and takes it
// away the next time.
func flagger(m *Master, ref storage.Ref) func() error {
	ops := [2]storage.FlagOp{storage.FlagsAdd, storage.FlagsRemove}
	n := 0
	return func() error {
		n++
		_, err := m.SetFlags(context.Background(), ref, []storage.UID{1}, storage.FlagChange{Op: ops[n%2], Flags: storage.Flags{System: storage.Flagged}})
		return err
	}
}

// bigTree makes a mailbox "top 0" with n below it.
func bigTree(b *testing.B, m *Master, id storage.AccountID, n int) {
	const atOnce = 16
	var made sync.WaitGroup
	for i := range atOnce {
		made.Go(func() {
			for j := i; j < n && !b.Failed(); j += atOnce {
				if _, err := m.CreateMailbox(b.Context(), id, fmt.Sprintf("top 0/%d", j), ""); err != nil {
					b.Error(err)
				}
			}
		})
	}
	made.Wait()
}

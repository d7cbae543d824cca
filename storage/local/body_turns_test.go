package local

import (
	"context"
	"errors"
	"strings"
	"testing"

	"mailnode/storage"
)

// TestLargeBodiesAreProvedInTurns: without a turn a large body is not proved, and whoever
// waits for one leaves with his context; small bodies need none. None of that is damage.
func TestLargeBodiesAreProvedInTurns(t *testing.T) {
	for name, large := range map[string]string{"plain": strings.Repeat("x", proveAtOnceMax), "two pieces": mail(1) + strings.Repeat("y", 3*proveAtOnceMax)} {
		t.Run(name, func(t *testing.T) {
			s := openSlot(t, options(t, newFS(t)))
			m := serve(t, s, 1, 0)
			a := account(t, m, "u1@example.test")
			deliver(t, m, mail(1)+large, a)
			deliver(t, m, mail(2), a)
			ref := refOf(t, m, a, "INBOX")
			open := func(ctx context.Context, uid storage.UID) error {
				b, err := m.OpenBody(ctx, ref, uid)
				if err == nil {
					b.Close()
				}
				return err
			}
			turns := s.o.Resources.proofs
			for range cap(turns) {
				turns <- struct{}{}
			}
			ctx, leave := context.WithCancel(t.Context())
			answers := make(chan error, 1)
			go func() { answers <- open(ctx, 1) }()
			if err := open(t.Context(), 2); err != nil {
				t.Errorf("a small body: %v", err)
			}
			select {
			case err := <-answers:
				t.Errorf("a large body without a turn: %v", err)
			default:
			}
			leave()
			if err := <-answers; !errors.Is(err, context.Canceled) || errors.Is(err, storage.ErrCorrupt) {
				t.Errorf("whoever leaves: %v", err)
			}
			for range cap(turns) {
				<-turns
			}
			if err := open(t.Context(), 1); err != nil || len(turns) > 0 {
				t.Errorf("with a turn: %v, %d turns are held", err, len(turns))
			}
		})
	}
}

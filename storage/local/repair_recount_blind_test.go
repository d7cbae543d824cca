package local

import (
	"testing"

	"github.com/cockroachdb/pebble/v2"

	"mailnode/storage"
	"mailnode/storage/event"
)

// A record of any kind that names a body and cannot be read keeps the body's place: only
// the count of references still shows that the body is needed (law 7).
func TestLaw07RecountKeepsBodiesOfUnreadableRecords(t *testing.T) {
	for _, kind := range []string{"message of a lost mailbox", "note of a missing message"} {
		t.Run(kind, func(t *testing.T) {
			s := openSlot(t, options(t, newFS(t)))
			m := serve(t, s, 1, 0)
			a := account(t, m, "u1@example.test")
			deliver(t, m, mail(1), a)
			box, _ := inbox(t, m, a)
			ref := storage.Ref{Account: a.ID, Mailbox: box.ID}
			var places [][]byte
			if err := s.read(func(v *view) error {
				return each(v, event.SpanOf([]byte{event.PrefixBody}), func(k, _ []byte) error {
					places = append(places, append([]byte(nil), k...))
					return nil
				})
			}); err != nil || len(places) != 1 {
				t.Fatal(places, err)
			}
			behind(t, s, func(b *pebble.Batch) {
				if kind == "message of a lost mailbox" {
					b.Delete(event.MailboxKey(ref), nil)
					b.Set(event.MessageKey(ref, 1), []byte{0xff}, nil)
				} else {
					b.Delete(event.MessageKey(ref, 1), nil)
					b.Set(event.MissingKey(ref, 1), []byte{0xff}, nil)
				}
			})
			runRecount(t, s, Scope{})
			if err := s.read(func(v *view) error {
				if _, kept, err := v.Get(places[0]); err != nil || !kept {
					t.Errorf("the body has no place any more (%v)", err)
				}
				return nil
			}); err != nil {
				t.Error(err)
			}
			s.Close() // what is lost is lost: the laws do not hold
		})
	}
}

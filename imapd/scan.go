package imapd

import (
	"errors"

	"mailnode/storage"
)

// scanGap is how many messages that were not asked for are read rather than a
// new scan begun.
const scanGap = 64

// errPause ends a scan that goes on later. It never leaves this file.
var errPause = errors.New("pause the scan")

// eachMessage reads the records of spans in order. visit gets a message's index
// in the view; it must not keep m. When it says that it has enough, the
// scan is closed, rest is called, and a new scan goes on behind that message:
// rest may take as long as the client likes. rest is also called at the end.
// found counts the messages that were still there.
func (c *session) eachMessage(spans []span, visit func(i int, m *storage.Message) (enough bool, err error), rest func() error) (found int, err error) {
	v := c.view
	var m storage.Message // one for all: visit's pointer would make each a heap object
	for len(spans) > 0 {
		n := 1
		for n < len(spans) && spans[n].lo-spans[n-1].hi < scanGap {
			n++
		}
		group := spans[:n]
		spans = spans[n:]
		lo, hi := v.uids[group[0].lo], v.uids[group[n-1].hi-1]
		i := group[0].lo
		for again := true; again; {
			again = false
			err := c.store.Scan(c.ctx, v.ref, lo, hi, func(read storage.Message) error {
				if err := c.ctx.Err(); err != nil {
					return err
				}
				m = read
				for i < len(v.uids) && v.uids[i] < m.UID {
					i++
				}
				for len(group) > 0 && group[0].hi <= i {
					group = group[1:]
				}
				if len(group) == 0 || i < group[0].lo || v.uids[i] != m.UID {
					return nil
				}
				found++
				v.overlay(&m)
				enough, err := visit(i, &m)
				if err == nil && enough {
					again = m.UID < hi
					lo = m.UID + 1
					return errPause
				}
				return err
			})
			if err != nil && !errors.Is(err, errPause) {
				return found, err
			}
			if err != nil {
				if err := rest(); err != nil {
					return found, err
				}
			}
		}
	}
	return found, rest()
}

func count(spans []span) int {
	n := 0
	for _, s := range spans {
		n += s.hi - s.lo
	}
	return n
}

package local

import (
	"bytes"
	"context"

	"github.com/cockroachdb/pebble/v2"

	"mailnode/storage"
	"mailnode/storage/event"
)

// Names implements storage.Mailboxes: it merges the keys of both kinds.
func (m *Master) Names(ctx context.Context, id storage.AccountID, prefix, from string, fn func(storage.NameEntry) error) error {
	return m.view(ctx, func(v *view) error {
		if _, err := loadAccount(v, id); err != nil {
			return err
		}
		boxes, err := newNameCursor(v, event.NamesOf(id, prefix), event.NameKey(id, from))
		if err != nil {
			return err
		}
		defer boxes.Close()
		subscribed, err := newNameCursor(v, event.SubscriptionsWith(id, prefix), event.SubscriptionKey(id, from))
		if err != nil {
			return err
		}
		defer subscribed.Close()
		return mergeNames(boxes, subscribed, func(n storage.NameEntry) error {
			if err := v.ended(); err != nil {
				return err
			}
			return fn(n)
		})
	})
}

func mergeNames(boxes, subscribed *nameCursor, fn func(storage.NameEntry) error) error {
	for boxes.Valid() || subscribed.Valid() {
		order := 0
		switch {
		case !subscribed.Valid():
			order = -1
		case !boxes.Valid():
			order = 1
		default:
			order = bytes.Compare(boxes.name(), subscribed.name())
		}
		var n storage.NameEntry
		if order <= 0 {
			id, err := boxes.ValueAndErr()
			if err != nil {
				return readError(err)
			}
			if len(id) != 8 {
				return storage.Errorf(storage.ErrCorrupt, "read name %q: %d bytes", boxes.name(), len(id))
			}
			n.Name, n.Mailbox = string(boxes.name()), storage.MailboxID(be.Uint64(id))
			boxes.Next()
		}
		if order >= 0 {
			n.Name, n.Subscribed = string(subscribed.name()), true
			subscribed.Next()
		}
		if err := fn(n); err != nil {
			return err
		}
	}
	for _, c := range []*nameCursor{boxes, subscribed} {
		if err := c.Error(); err != nil {
			return readError(err)
		}
	}
	return nil
}

// nameCursor stands on a key that ends with a name.
type nameCursor struct{ *pebble.Iterator }

// newNameCursor stands on the first key of a span that is not less than from,
// which has the span's kind and account.
func newNameCursor(v *view, sp event.Span, from []byte) (*nameCursor, error) {
	if bytes.Compare(from, sp.Lower) > 0 {
		sp.Lower = from
	}
	it, err := v.iter(sp)
	if err != nil {
		return nil, err
	}
	it.First()
	return &nameCursor{it}, nil
}

func (c *nameCursor) name() []byte { return c.Key()[event.NameOffset:] }

package check

import (
	"fmt"

	"mailnode/storage"
	"mailnode/storage/event"
)

// Lengths of keys, in bytes.
const (
	mailboxKeyBytes = 17
	messageKeyBytes = 21
	bodyKeyBytes    = 41
)

// derived finds counters, changes and envelopes of mailboxes that do not exist,
// and envelopes that no message has.
func (c *checker) derived() error {
	for _, p := range []struct {
		prefix byte
		what   string
	}{{event.PrefixStats, "counters"}, {event.PrefixChanged, "changes"}, {event.PrefixSummary, "envelopes"}} {
		var last storage.Ref
		known := false
		if err := c.s.Each(prefix(p.prefix), func(k, _ []byte) error {
			if len(k) < mailboxKeyBytes {
				c.report(6, "record %q is under no mailbox", k)
				return nil
			}
			if ref := event.RefOf(k); ref != last {
				last = ref
				_, found, err := c.s.Get(event.MailboxKey(ref))
				if err != nil {
					return err
				}
				if known = found; !found {
					c.report(8, "%s of mailbox %016x of account %016x, which does not exist", p.what, uint64(ref.Mailbox), uint64(ref.Account))
				}
			}
			if known && p.prefix == event.PrefixSummary {
				return c.envelope(k)
			}
			return nil
		}); err != nil {
			return err
		}
	}
	return nil
}

// envelope finds one that neither a live nor an expunged message has.
func (c *checker) envelope(k []byte) error {
	ref := event.RefOf(k)
	if len(k) == messageKeyBytes {
		for _, key := range [][]byte{event.MessageKey(ref, event.UIDOf(k)), event.ExpungedKey(ref, event.UIDOf(k))} {
			if _, found, err := c.s.Get(key); err != nil || found {
				return err
			}
		}
	}
	f := Finding{Law: 8, UID: event.UIDOf(k), Text: "an envelope that no message has"}
	var b event.MailboxRecord
	if found, err := c.load(event.MailboxKey(ref), &b); err != nil {
		return err
	} else if found {
		f.Mailbox = b.Name
	}
	f.Text += fmt.Sprintf(" (account %016x)", uint64(ref.Account))
	c.add(f)
	return nil
}

package local

import (
	"mailnode/storage"
	"mailnode/storage/event"
	"mailnode/storage/slot"
)

// Find returns the scope of an address or, when name is not "", of one of its mailboxes,
// and the slot that the account is in: when that is another slot, the scope means
// nothing. It works on replicas too.
func (s *Slot) Find(addr slot.Address, name string) (sc Scope, in slot.ID, err error) {
	err = s.read(func(v *view) error {
		rec := &event.AddressRecord{}
		found, err := event.Load(v, event.AddressKey(addr), rec)
		if err != nil {
			return err
		}
		if !found || rec.Erased {
			return storage.Errorf(storage.ErrNotFound, "address %q is not known", addr)
		}
		sc.Account, in = storage.AccountID(rec.Account), slot.ID(rec.Slot)
		if name == "" || in != s.o.Slot {
			return nil
		}
		b, err := mailboxByName(v, sc.Account, name)
		if err == nil {
			sc.Mailbox = storage.MailboxID(b.Id)
		}
		return err
	})
	return sc, in, err
}

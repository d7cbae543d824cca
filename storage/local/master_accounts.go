package local

import (
	"context"
	"errors"
	"fmt"
	"time"

	"mailnode/storage"
	"mailnode/storage/event"
	"mailnode/storage/fair"
	"mailnode/storage/slot"
)

// Address implements storage.Accounts.
func (m *Master) Address(ctx context.Context, a slot.Address) (storage.Address, error) {
	var out storage.Address
	err := m.view(ctx, func(v *view) error {
		rec := &event.AddressRecord{}
		found, err := event.Load(v, event.AddressKey(a), rec)
		if err != nil {
			return err
		}
		if !found || rec.Erased {
			return storage.Errorf(storage.ErrNotFound, "address %q is not known", a)
		}
		out = storage.Address{Address: a, Account: storage.AccountID(rec.Account), Slot: slot.ID(rec.Slot), Generation: rec.Generation}
		if out.Slot != m.s.o.Slot {
			return nil // the slot of its account knows
		}
		if _, err := loadAccount(v, out.Account); errors.Is(err, storage.ErrNotFound) {
			return storage.Errorf(storage.ErrNotFound, "address %q is not known: its account is deleted", a)
		} else if err != nil {
			return err
		}
		return nil
	})
	return out, err
}

// Account implements storage.Accounts.
func (m *Master) Account(ctx context.Context, id storage.AccountID) (storage.Account, error) {
	var out storage.Account
	err := m.view(ctx, func(v *view) error {
		a, err := loadAccount(v, id)
		if err != nil {
			return err
		}
		out, err = showAccount(v, a)
		return err
	})
	return out, err
}

func showAccount(r reader, a *event.AccountRecord) (storage.Account, error) {
	used, err := usage(r, storage.AccountID(a.Id))
	return storage.Account{ID: storage.AccountID(a.Id), Address: slot.Address(a.Address), QuotaBytes: a.QuotaBytes,
		UsedBytes: used, Created: time.Unix(a.CreatedUnix, 0).UTC(), Disabled: a.Disabled, Credential: credential(loginHash(a))}, err
}

// Accounts implements storage.Accounts.
func (m *Master) Accounts(ctx context.Context) ([]storage.Account, error) {
	var out []storage.Account
	err := m.view(ctx, func(v *view) error {
		return each(v, event.SpanOf([]byte{event.PrefixAddress}), func(_, value []byte) error {
			rec := &event.AddressRecord{}
			if err := unmarshal(value, rec); err != nil {
				return err
			}
			if rec.Erased {
				return nil
			}
			a := &event.AccountRecord{}
			found, err := event.Load(v, event.AccountKey(storage.AccountID(rec.Account)), a)
			if err != nil || !found || a.Deleted || a.Address != rec.Address {
				return err // an alias, or a pointer to another slot
			}
			shown, err := showAccount(v, a)
			out = append(out, shown)
			return err
		})
	})
	return out, err
}

// specialMailboxes are made with each account, and subscribed.
func specialMailboxes() []struct {
	name string
	use  storage.SpecialUse
} {
	return []struct {
		name string
		use  storage.SpecialUse
	}{{"INBOX", ""}, {"Drafts", storage.UseDrafts}, {"Sent", storage.UseSent}, {"Junk", storage.UseJunk},
		{"Trash", storage.UseTrash}, {"Archive", storage.UseArchive}}
}

// CreateAccount implements storage.Accounts.
func (m *Master) CreateAccount(ctx context.Context, addr slot.Address, password string, quotaBytes int64) (storage.Account, error) {
	if err := storage.CheckAddress(addr); err != nil {
		return storage.Account{}, err
	}
	hash, err := m.s.o.Passwords.Hash(ctx, password)
	if err != nil {
		return storage.Account{}, err
	}
	if quotaBytes < 0 {
		return storage.Account{}, storage.Errorf(storage.ErrInvalid, "create account %q: a quota is 0 (none) or more bytes", addr)
	}
	now := m.s.o.Clock.Wall()
	var created storage.Account
	err = m.growing(ctx, func(t *txn) error {
		old := &event.AddressRecord{}
		found, err := event.Load(t, event.AddressKey(addr), old)
		if err != nil {
			return err
		}
		if found && !old.Erased {
			return addressTaken(t, old)
		}
		a := &event.AccountRecord{Id: randomID(), Address: string(addr), PasswordHash: hash, QuotaBytes: quotaBytes, CreatedUnix: now.Unix(), Generation: 1}
		if !event.SeedUIDValidity(a, old, m.s.o.Cluster, m.unclean, m.losses) {
			return storage.Errorf(storage.ErrLimit, "create account %q: the address has used up its UIDVALIDITYs", addr)
		}
		changes := []*event.Change{
			accountChange(a),
			{Record: &event.Change_Address{Address: &event.AddressRecord{Address: string(addr), Account: a.Id, Slot: uint32(m.s.o.Slot), Generation: 1}}},
		}
		for _, sp := range specialMailboxes() {
			box, err := m.newMailbox(t, a, sp.name, sp.use)
			if err != nil {
				return err
			}
			changes = append(changes, mailboxChange(box), subscriptionChange(a.Id, sp.name, true))
		}
		created = storage.Account{ID: storage.AccountID(a.Id), Address: addr, QuotaBytes: quotaBytes, Created: now.Truncate(time.Second).UTC()}
		return m.emit(t, changes...)
	})
	return created, err
}

// addressTaken returns the error for a new account whose address exists.
func addressTaken(r reader, rec *event.AddressRecord) error {
	a := &event.AccountRecord{}
	found, err := event.Load(r, event.AccountKey(storage.AccountID(rec.Account)), a)
	if err != nil {
		return err
	}
	if found && a.Deleted {
		return storage.Errorf(storage.ErrExists, "create account %q: a deleted account has the address: "+
			"`mailnode user undelete %s` brings it back, `mailnode user erase %s` frees the address", rec.Address, rec.Address, rec.Address)
	}
	return storage.Errorf(storage.ErrExists, "create account %q: the address exists already", rec.Address)
}

// SetPassword implements storage.Accounts.
func (m *Master) SetPassword(ctx context.Context, id storage.AccountID, password string) error {
	hash, err := m.s.o.Passwords.Hash(ctx, password)
	if err != nil {
		return err
	}
	return m.changeAccount(ctx, id, func(a *event.AccountRecord) { a.PasswordHash = hash })
}

// SetQuota implements storage.Accounts.
func (m *Master) SetQuota(ctx context.Context, id storage.AccountID, quotaBytes int64) error {
	if quotaBytes < 0 {
		return storage.Errorf(storage.ErrInvalid, "set quota of account %016x: a quota is 0 (none) or more bytes", uint64(id))
	}
	return m.changeAccount(ctx, id, func(a *event.AccountRecord) { a.QuotaBytes = quotaBytes })
}

// SetDisabled implements storage.Accounts.
func (m *Master) SetDisabled(ctx context.Context, id storage.AccountID, disabled bool) error {
	return m.changeAccount(ctx, id, func(a *event.AccountRecord) { a.Disabled = disabled })
}

// changeAccount changes an account's record, acknowledged as law 1 says.
func (m *Master) changeAccount(ctx context.Context, id storage.AccountID, set func(a *event.AccountRecord)) error {
	return m.acknowledged(ctx, func(t *txn) error {
		a, err := loadAccount(t, id)
		if err != nil {
			return err
		}
		could := loginHash(a)
		set(a)
		if loginHash(a) != could {
			t.endSessions()
		}
		return m.emit(t, accountChange(a))
	}, id)
}

// Authenticate implements storage.Accounts.
func (m *Master) Authenticate(ctx context.Context, id storage.AccountID, try storage.Attempt) (storage.Credential, error) {
	var hash string
	err := m.view(ctx, func(v *view) error {
		a, err := loadAccount(v, id)
		if err == nil {
			hash = loginHash(a)
		}
		return err
	})
	if err != nil {
		return storage.Credential{}, err
	}
	who := fair.Asker{Client: try.Client, Account: fmt.Sprintf("%016x", uint64(id))}
	if err := m.s.o.Passwords.Prove(ctx, who, hash, try.Password); err != nil {
		return storage.Credential{}, err
	}
	return credential(hash), nil
}

// loginHash is what a password is proved against: nothing while an account is
// disabled.
func loginHash(a *event.AccountRecord) string {
	if a.Disabled {
		return ""
	}
	return a.PasswordHash
}

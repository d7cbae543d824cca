package storage

import (
	"context"
	"time"

	"mailnode/storage/slot"
)

// DeletedAccount is an account that was deleted and can still be brought back.
type DeletedAccount struct {
	Account
	Ago  time.Duration // of slot clock, since it was deleted
	Left time.Duration // of slot clock, until it is erased; never below 0
}

// Restore says what of an account is to be brought back.
type Restore struct {
	Since   time.Duration // what was removed in the last so much slot clock; 0: all that is kept
	Mailbox string        // in this mailbox, or it itself; "": everywhere
}

// Restored is what was brought back.
type Restored struct {
	Messages  int      // under new UIDs, in the mailboxes that they were removed from
	Gone      int      // of those asked for: no body is left
	Mailboxes []string // their names now; a name that is taken gets " (2)"
}

// Missing is a message whose body no copy has (law 7). Its UID is expunged.
type Missing struct {
	Address      slot.Address
	Mailbox      string // as it was called then
	UID          UID
	GUID         slot.GUID
	Size         int64 // bytes
	InternalDate time.Time
	Ago          time.Duration // of slot clock, since it was given up
}

// Undelete is the part of a Store that brings back, within the undelete window,
// what users and operators have removed. All windows are of slot clock (law 11).
type Undelete interface {
	// DeleteAccount makes an account unreachable; its address stays taken until
	// the window is over and it is erased. ErrNotFound.
	DeleteAccount(ctx context.Context, id AccountID) error
	// DeletedAccounts lists what UndeleteAccount can bring back, by address.
	DeletedAccounts(ctx context.Context) ([]DeletedAccount, error)
	// UndeleteAccount brings an account back as it was. ErrNotFound, ErrInvalid
	// when it is not deleted.
	UndeleteAccount(ctx context.Context, a slot.Address) (Account, error)
	// DeletedAccount looks one of them up. ErrNotFound, ErrInvalid when the
	// account is not deleted.
	DeletedAccount(ctx context.Context, a slot.Address) (DeletedAccount, error)
	// EraseAccount forgets a deleted account at once: the address is free again,
	// the mail goes in the background. ErrNotFound, ErrInvalid when not deleted.
	EraseAccount(ctx context.Context, a slot.Address) error
	// Restore brings back expunged messages and deleted mailboxes. Quotas do not
	// stop it.
	Restore(ctx context.Context, id AccountID, r Restore) (Restored, error)
	// Missing lists the messages that no copy has a body of.
	Missing(ctx context.Context) ([]Missing, error)
}

// Package storage says what a mail store is: accounts, mailboxes, messages,
// the Store interface that frontends use, the closed list of error kinds, and
// the limits at the Store's door. storage/local is the Store on disk.
//
// Rules that hold for every Store:
//   - a change's call returns nil only when law 1 lets the change be acknowledged;
//   - what is read is durable on the master: no UID, MODSEQ, message or mailbox
//     is shown that a crash could take back (LAWS §4.8);
//   - after ErrNotMaster a Store never works again for this caller.
package storage

import (
	"context"
	"io"
	"time"

	"mailnode/storage/slot"
)

// UID is a message's number in its mailbox (RFC 3501, section 2.3.1.1).
type UID uint32

// UIDValidity is a mailbox's UIDVALIDITY (RFC 3501, section 2.3.1.1).
type UIDValidity uint32

// ModSeq is a MODSEQ (RFC 7162): the position of the event that last changed
// something, plus the account's base.
type ModSeq uint64

// AccountID identifies an account for life, in every slot that it ever lives in.
type AccountID uint64

// MailboxID identifies a mailbox for life; its name is an attribute.
type MailboxID uint64

// Ref names a mailbox of an account.
type Ref struct {
	Account AccountID
	Mailbox MailboxID
}

// Account is a user's record.
type Account struct {
	ID         AccountID
	Address    slot.Address // the main address
	QuotaBytes int64        // 0: no limit
	UsedBytes  int64        // derived: the sum of the sizes of live messages
	Created    time.Time    // wall clock, shown only
	Disabled   bool
	Credential Credential `json:"-"`
}

// Credential names the password with which an account can be logged in to: a new
// one is never the same again, and the zero one is none (a disabled account). What
// was opened under another Credential must end.
type Credential [16]byte

// Attempt is one try to log in to an account.
type Attempt struct {
	Password string // any bytes, as the client sent them
	// Client is fair.Network of the client's address: the tries of one client wait
	// behind each other. "" is not known.
	Client string
}

// Address is what an address's home slot knows about it: the account, and the
// slot in which the account lives (law 2: a higher generation is newer).
type Address struct {
	Address    slot.Address
	Account    AccountID
	Slot       slot.ID
	Generation uint32
}

// SpecialUse is a mailbox's RFC 6154 attribute without the backslash, or "".
type SpecialUse string

// The special-use mailboxes that every account starts with.
const (
	UseDrafts  SpecialUse = "Drafts"
	UseSent    SpecialUse = "Sent"
	UseJunk    SpecialUse = "Junk"
	UseTrash   SpecialUse = "Trash"
	UseArchive SpecialUse = "Archive"
)

// Mailbox is a mailbox as its clients see it at one durable position.
type Mailbox struct {
	ID            MailboxID
	Name          string // UTF-8, levels separated by '/'; INBOX in capitals
	UIDValidity   UIDValidity
	UIDNext       UID
	HighestModSeq ModSeq
	SpecialUse    SpecialUse
	Messages      uint32
	Unseen        uint32 // messages without \Seen
	Deleted       uint32 // messages with \Deleted
	Bytes         int64  // sum of message sizes
}

// NameEntry is a name that is a mailbox, or subscribed, or both.
type NameEntry struct {
	Name       string
	Mailbox    MailboxID // 0: there is no such mailbox
	Subscribed bool
}

// Message is one message as lists show it. Its flags may be shared between
// sessions: Flags.Keywords is never changed in place.
type Message struct {
	UID          UID
	ModSeq       ModSeq
	Flags        Flags
	InternalDate time.Time
	Size         int64 // bytes, RFC822.SIZE
}

// Body is a message's bytes as a frontend hands them in: any number of reads,
// any order. Spool is the usual one.
type Body interface {
	io.ReaderAt
	Size() int64     // bytes
	GUID() slot.GUID // SHA-256 of the bytes
}

// BodyReader is a stored body, its checksum already proved. It must be closed.
type BodyReader interface {
	io.ReaderAt
	io.Closer
	Size() int64
}

// Store is one slot's mail while this node is the slot's master.
type Store interface {
	Slot() slot.ID
	// Done is closed when this node stops being the slot's master: idle
	// sessions then say BYE.
	Done() <-chan struct{}
	Accounts
	Mailboxes
	Messages
	Changes
	Undelete
}

// Accounts is the part of a Store that knows users.
type Accounts interface {
	// Address looks an address up in its home slot; ErrNotFound when unknown,
	// or when its account is deleted.
	Address(ctx context.Context, a slot.Address) (Address, error)
	Account(ctx context.Context, id AccountID) (Account, error)
	// Accounts lists all, in the order of their addresses.
	Accounts(ctx context.Context) ([]Account, error)
	// CreateAccount makes the account, its address record and its mailboxes
	// (INBOX and the special-use ones) in one event. ErrExists.
	CreateAccount(ctx context.Context, a slot.Address, password string, quotaBytes int64) (Account, error)
	SetPassword(ctx context.Context, id AccountID, password string) error
	// SetQuota changes how much an account may hold, in bytes; 0: no limit. What
	// is there already stays.
	SetQuota(ctx context.Context, id AccountID, quotaBytes int64) error
	// SetDisabled keeps a user out, or lets the user in again; mail comes in all the same.
	SetDisabled(ctx context.Context, id AccountID, disabled bool) error
	// Authenticate proves a password, and returns what it was proved against.
	// ErrAuth: it is wrong, or the account is disabled. ErrUnavailable: too many
	// are being proved, or ctx ended.
	Authenticate(ctx context.Context, id AccountID, try Attempt) (Credential, error)
}

// Mailboxes is the part of a Store that knows folders.
type Mailboxes interface {
	// Mailboxes lists an account's mailboxes in the order of their names.
	Mailboxes(ctx context.Context, a AccountID) ([]Mailbox, error)
	// Mailbox looks one up by name; INBOX in any case. ErrNotFound.
	Mailbox(ctx context.Context, a AccountID, name string) (Mailbox, error)
	// MailboxByID follows a mailbox through renames. ErrNotFound when deleted.
	MailboxByID(ctx context.Context, r Ref) (Mailbox, error)
	// CreateMailbox also makes the missing levels above (RFC 3501, section
	// 6.3.3). A trailing '/' is dropped. ErrExists, ErrInvalid, ErrLimit.
	CreateMailbox(ctx context.Context, a AccountID, name string, use SpecialUse) (Mailbox, error)
	// DeleteMailbox deletes one mailbox with its messages; those below it stay
	// (RFC 3501, section 6.3.4). INBOX: ErrInvalid.
	DeleteMailbox(ctx context.Context, a AccountID, name string) error
	// RenameMailbox renames the tree in one event. INBOX: its messages move to
	// the new mailbox and INBOX stays (RFC 3501, section 6.3.5).
	RenameMailbox(ctx context.Context, a AccountID, from, to string) error
	// Names calls fn, in the order of bytes, for each name that begins with
	// prefix, is not less than from, and is a mailbox or subscribed. It stops at
	// fn's first error and returns it.
	Names(ctx context.Context, a AccountID, prefix, from string, fn func(n NameEntry) error) error
	Subscribe(ctx context.Context, a AccountID, name string, on bool) error
}

// Messages is the part of a Store that reads and changes messages.
type Messages interface {
	// Deliver stores one body for many recipients; the result has one error, or
	// nil, per recipient. One body serves them all.
	Deliver(ctx context.Context, d Delivery) []error
	// Announce asks, before a message of so many bytes is sent, whether it would be
	// appended now. ErrOverQuota, counting what else was announced for the account;
	// ErrDiskFull. It counts until end is called, which Append's caller does before.
	Announce(ctx context.Context, a AccountID, bytes int64) (end func(), err error)
	// Append stores one message; the mailbox must exist (ErrNotFound).
	Append(ctx context.Context, a AccountID, r Append) (Appended, error)
	// Scan calls fn for each message with lo <= UID <= hi in the order of UIDs;
	// it stops at fn's first error and returns it.
	Scan(ctx context.Context, r Ref, lo, hi UID, fn func(m Message) error) error
	// UIDs returns the UIDs of all messages, in order. The array is shared between
	// sessions: it must not be changed.
	UIDs(ctx context.Context, r Ref) ([]UID, error)
	// Summaries calls fn for each message with lo <= UID <= hi in the order of
	// UIDs, with what Summary returns; fn must not keep it. Messages that are gone
	// may be among them. It stops at fn's first error and returns it.
	Summaries(ctx context.Context, r Ref, lo, hi UID, fn func(uid UID, summary []byte) error) error
	// Summary returns what storage/mime computed at delivery, in its encoding.
	Summary(ctx context.Context, r Ref, uid UID) ([]byte, error)
	// OpenBody proves a body's checksum and opens it. ErrNotFound when the
	// message is gone, ErrUnavailable while a damaged body is being fetched.
	OpenBody(ctx context.Context, r Ref, uid UID) (BodyReader, error)
	// SetFlags changes flags and returns the messages it found, changed or
	// not, in UID order. UIDs that are gone are passed over.
	SetFlags(ctx context.Context, r Ref, uids []UID, c FlagChange) ([]Reflagged, error)
	// Expunge removes those of uids (nil: of all) that have \Deleted, and returns
	// their UIDs in order.
	Expunge(ctx context.Context, r Ref, uids []UID) ([]UID, error)
	// Copy copies messages to the mailbox named to; ErrNotFound when there is none.
	Copy(ctx context.Context, r Ref, uids []UID, to string) (Copied, error)
	// Move is Copy and the removal of the originals, atomic per 1,000 messages.
	Move(ctx context.Context, r Ref, uids []UID, to string) (Copied, error)
}

// Reflagged is a message as a change of its flags left it.
type Reflagged struct {
	Message
	// Before is the message's ModSeq before the change. A session that was told
	// less does not know which flags the change was made to.
	Before ModSeq
}

// Changes is the part of a Store that tells sessions what others did.
type Changes interface {
	// Changes returns all that changed in a mailbox after since. A mailbox that
	// was deleted: ErrNotFound.
	Changes(ctx context.Context, r Ref, since ModSeq) (ChangeSet, error)
	// Watch returns a channel that gets a value (capacity one, never blocking the
	// store) after each durable change of the mailbox, and the func that ends it.
	// The zero Ref watches for accounts whose sessions must end: deleted ones, and
	// those whose Credential is another.
	Watch(r Ref) (changed <-chan struct{}, stop func())
}

// ChangeSet is what Changes found.
type ChangeSet struct {
	Changed  []Message // new or changed, in UID order
	Expunged []UID     // in order; may name messages that the caller never saw
	Head     ModSeq    // pass this as since the next time
	// UIDs, when not nil, has the UIDs of all messages at Head, in order. The
	// array is shared between sessions: it must not be changed.
	UIDs []UID
}

// Delivery is one LMTP transaction's share of one slot.
type Delivery struct {
	Body         Body
	InternalDate time.Time // zero: now
	Recipients   []Recipient
}

// Recipient is one recipient of a Delivery. Mail goes to INBOX.
type Recipient struct {
	Account AccountID
	Address slot.Address // as the envelope gave it, for the birth note
}

// Append is one IMAP APPEND.
type Append struct {
	Mailbox      string
	Body         Body
	Flags        Flags
	InternalDate time.Time // zero: now
}

// Appended is what APPENDUID tells (RFC 4315, section 3).
type Appended struct {
	UIDValidity UIDValidity
	UID         UID
}

// Copied is what COPYUID tells: From[i] became To[i] (RFC 4315, section 3).
type Copied struct {
	UIDValidity UIDValidity // of the target
	From, To    []UID
}

// FlagOp says what SetFlags does with the flags it is given.
type FlagOp int

// The three STORE forms (RFC 3501, section 6.4.6).
const (
	FlagsReplace FlagOp = iota
	FlagsAdd
	FlagsRemove
)

// FlagChange is one STORE.
type FlagChange struct {
	Op    FlagOp
	Flags Flags
}

package event

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"math/bits"
	"strings"
)

// Digest is the sum modulo 2^128 of the hashes of live records (law 8). A sum
// can be kept up to date record by record, in any order.
type Digest struct{ Hi, Lo uint64 }

// Add returns d + e.
func (d Digest) Add(e Digest) Digest {
	lo, carry := bits.Add64(d.Lo, e.Lo, 0)
	hi, _ := bits.Add64(d.Hi, e.Hi, carry)
	return Digest{hi, lo}
}

// Sub returns d - e.
func (d Digest) Sub(e Digest) Digest {
	lo, borrow := bits.Sub64(d.Lo, e.Lo, 0)
	hi, _ := bits.Sub64(d.Hi, e.Hi, borrow)
	return Digest{hi, lo}
}

// Bytes returns the stored form, 16 bytes big-endian.
func (d Digest) Bytes() []byte {
	return binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint64(nil, d.Hi), d.Lo)
}

// String returns lower-case hex.
func (d Digest) String() string { return hex.EncodeToString(d.Bytes()) }

// ParseDigest reads the stored form; anything but 16 bytes is the zero digest.
func ParseDigest(b []byte) Digest {
	if len(b) != 16 {
		return Digest{}
	}
	return Digest{binary.BigEndian.Uint64(b), binary.BigEndian.Uint64(b[8:])}
}

// The hashes are over an encoding of their own, one tag byte and every field
// with its length, because protobuf promises no canonical form between
// releases. Envelopes, quota use, tombstones and caches do not count.

func sum(b []byte) Digest {
	h := sha256.Sum256(b)
	return ParseDigest(h[:16])
}

func text(b []byte, s string) []byte {
	return append(binary.AppendUvarint(b, uint64(len(s))), s...)
}

func num(b []byte, v uint64) []byte { return binary.AppendUvarint(b, v) }

func flag(b []byte, v bool) []byte {
	if v {
		return append(b, 1)
	}
	return append(b, 0)
}

// DigestMessage hashes a live message.
func DigestMessage(m *MessageRecord) Digest {
	b := append(make([]byte, 0, 128), 'm')
	for _, v := range [...]uint64{m.Account, m.Mailbox, uint64(m.Uid), m.Modseq, uint64(m.SystemFlags),
		uint64(m.InternalDateUnix), uint64(m.Size), uint64(m.SavedUnix), uint64(len(m.Keywords))} {
		b = num(b, v)
	}
	for _, k := range m.Keywords {
		b = text(b, strings.ToLower(k))
	}
	return sum(append(b, m.Guid...))
}

// DigestMailbox hashes a mailbox's record, without its messages; a deleted
// mailbox counts nothing.
func DigestMailbox(m *MailboxRecord) Digest {
	if m.Deleted {
		return Digest{}
	}
	b := []byte{'M'}
	for _, v := range [...]uint64{m.Account, m.Id, uint64(m.Uidvalidity), uint64(m.Uidnext), uint64(m.UidOrigin),
		uint64(m.UidBirth), uint64(m.ExpungeFloorUid), m.ExpungeFloorModseq, m.Changed, m.Born, uint64(len(m.Marks))} {
		b = num(b, v)
	}
	for _, k := range m.Marks {
		b = num(num(b, uint64(k.Unclean)), uint64(k.Uidnext))
	}
	return sum(text(text(b, m.Name), m.SpecialUse))
}

// DigestAccount hashes an account's record, without its mailboxes.
func DigestAccount(a *AccountRecord) Digest {
	b := []byte{'A'}
	for _, v := range [...]uint64{a.Id, uint64(a.QuotaBytes), uint64(a.CreatedUnix), a.ModseqBase, uint64(a.UidvalidityOrigin),
		uint64(a.UidvalidityBirth), uint64(a.UidvalidityNext), uint64(a.Generation)} {
		b = num(b, v)
	}
	b = flag(flag(b, a.Disabled), a.Deleted)
	return sum(text(text(b, a.Address), a.PasswordHash))
}

// DigestAddress hashes an address's record.
func DigestAddress(a *AddressRecord) Digest {
	b := []byte{'a'}
	for _, v := range [...]uint64{a.Account, uint64(a.Slot), uint64(a.Generation), uint64(a.UidvalidityOrigin),
		uint64(a.UidvalidityBirth), uint64(a.UidvalidityNext)} {
		b = num(b, v)
	}
	return sum(text(flag(b, a.Erased), a.Address))
}

// DigestSubscription hashes one subscription.
func DigestSubscription(account uint64, name string) Digest {
	return sum(text(num([]byte{'S'}, account), name))
}

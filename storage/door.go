package storage

import (
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"mailnode/storage/slot"
)

// The Store's door: what comes from outside is checked here, whoever brings it,
// and either has the stored form afterwards or is refused. A message's bytes are
// not judged: any bytes up to MaxMessageBytes are a message.

const knownFlags = Seen | Answered | Flagged | Deleted | Draft

// Canonical returns flags in their stored form: keywords sorted, each once.
// ErrInvalid: a keyword is no atom, or a system flag is unknown. ErrLimit: more
// than MaxKeywordsPerMessage.
func (f Flags) Canonical() (Flags, error) {
	if f.System&^knownFlags != 0 {
		return Flags{}, Errorf(ErrInvalid, "set flags: %#x is no set of system flags", uint8(f.System))
	}
	if len(f.Keywords) > MaxKeywordsPerMessage {
		return Flags{}, Errorf(ErrLimit, "set flags: %d keywords, at most %d", len(f.Keywords), MaxKeywordsPerMessage)
	}
	for _, k := range f.Keywords {
		if err := checkKeyword(k); err != nil {
			return Flags{}, err
		}
	}
	return Flags{System: f.System, Keywords: sortKeywords(slices.Clone(f.Keywords))}, nil
}

// Canonical checks a change of flags. ErrInvalid, ErrLimit.
func (c FlagChange) Canonical() (FlagChange, error) {
	if c.Op < FlagsReplace || c.Op > FlagsRemove {
		return c, Errorf(ErrInvalid, "set flags: %d is no way to change them", c.Op)
	}
	var err error
	c.Flags, err = c.Flags.Canonical()
	return c, err
}

// checkInternalDate accepts what an IMAP date-time can say in UTC (RFC 3501,
// section 9: four digits of a year).
func checkInternalDate(t time.Time) error {
	if u := t.Unix(); u < MinInternalDateUnix || u > MaxInternalDateUnix {
		return Errorf(ErrInvalid, "store message: its date lies outside the years 1 to 9999")
	}
	return nil
}

func checkBody(b Body) error {
	switch n := b.Size(); {
	case n < 0:
		return Errorf(ErrInvalid, "store message: it has %d bytes", n)
	case n > MaxMessageBytes:
		return Errorf(ErrTooBig, "store message: %d bytes, at most %d", n, int64(MaxMessageBytes))
	}
	return nil
}

// Canonical checks an APPEND; a zero date becomes now, to the second.
// ErrInvalid, ErrLimit, ErrTooBig.
func (r Append) Canonical(now time.Time) (Append, error) {
	if r.InternalDate.IsZero() {
		r.InternalDate = now.Truncate(time.Second)
	}
	if err := checkInternalDate(r.InternalDate); err != nil {
		return r, err
	}
	if err := checkBody(r.Body); err != nil {
		return r, err
	}
	var err error
	if r.Flags, err = r.Flags.Canonical(); err != nil {
		return r, err
	}
	r.Mailbox, err = CanonicalMailboxName(r.Mailbox)
	return r, err
}

// Canonical checks a delivery; a zero date becomes now, to the second. What is
// wrong with a single recipient is in errs. ErrInvalid, ErrTooBig.
func (d Delivery) Canonical(now time.Time, errs []error) (Delivery, error) {
	if d.InternalDate.IsZero() {
		d.InternalDate = now.Truncate(time.Second)
	}
	if err := checkInternalDate(d.InternalDate); err != nil {
		return d, err
	}
	for i, r := range d.Recipients {
		if r.Address != "" && errs[i] == nil {
			errs[i] = CheckAddress(r.Address)
		}
	}
	return d, checkBody(d.Body)
}

// CheckAddress returns ErrInvalid unless an address went through slot.ParseAddress.
func CheckAddress(a slot.Address) error {
	if p, err := slot.ParseAddress(string(a)); err != nil {
		return Errorf(ErrInvalid, "%w", err)
	} else if p != a {
		return Errorf(ErrInvalid, "address %q is not normalised", a)
	}
	return nil
}

// CheckPassword returns ErrInvalid unless a password can be set: UTF-8 (RFC 8265,
// section 4.1), because other bytes are replaced on their way by whatever reads
// text, and nothing that a client cannot send (RFC 4616, section 2: no NUL) or
// that ends a line.
func CheckPassword(p string) error {
	switch {
	case !utf8.ValidString(p):
		return Errorf(ErrInvalid, "check password: a password must be UTF-8")
	case p == "" || len(p) > MaxPasswordBytes || strings.ContainsAny(p, "\x00\r\n"):
		return Errorf(ErrInvalid, "check password: want 1 to %d bytes without line ends and NUL", MaxPasswordBytes)
	}
	return nil
}

// Check returns ErrInvalid unless a mailbox can have the use.
func (u SpecialUse) Check() error {
	switch u {
	case "", UseDrafts, UseSent, UseJunk, UseTrash, UseArchive:
		return nil
	}
	return Errorf(ErrInvalid, "create mailbox: %q is no special use that one can have here", u)
}

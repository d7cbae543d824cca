package storage

import (
	"errors"
	"fmt"
)

// The closed list of error kinds. Each protocol maps a kind to its reply in
// exactly one function; errors.Is(err, ErrNotFound) tells a kind.
var (
	ErrNotMaster = errors.New("not the slot's master")
	// ErrMoved is ErrNotMaster of a change that had not begun: it may be repeated
	// where the slot is now.
	ErrMoved       = fmt.Errorf("%w any more, and nothing was done", ErrNotMaster)
	ErrNotFound    = errors.New("not found")
	ErrExists      = errors.New("exists already")
	ErrInvalid     = errors.New("not valid")
	ErrLimit       = errors.New("over a limit")
	ErrOverQuota   = errors.New("over quota")
	ErrTooBig      = errors.New("too big")
	ErrAuth        = errors.New("authentication refused")
	ErrCorrupt     = errors.New("corrupt")
	ErrDiverged    = errors.New("diverged")
	ErrDiskFull    = errors.New("disk full")
	ErrUnavailable = errors.New("unavailable")
)

// Errorf makes an error of a kind: its text is the format's alone, and
// errors.Is finds the kind and whatever the format wraps with %w.
func Errorf(kind error, format string, args ...any) error {
	return &kindError{kind: kind, err: fmt.Errorf(format, args...)}
}

type kindError struct{ kind, err error }

func (e *kindError) Error() string   { return e.err.Error() }
func (e *kindError) Unwrap() []error { return []error{e.kind, e.err} }

// kinds names the kinds as nodes tell them to each other; the names never change.
// First comes what says that we don't know: an error of two kinds stays temporary.
func kinds() []struct {
	name string
	kind error
} {
	return []struct {
		name string
		kind error
	}{
		{"unavailable", ErrUnavailable}, {"moved", ErrMoved}, {"not_master", ErrNotMaster},
		{"not_found", ErrNotFound}, {"exists", ErrExists},
		{"invalid", ErrInvalid}, {"limit", ErrLimit}, {"over_quota", ErrOverQuota},
		{"too_big", ErrTooBig}, {"auth", ErrAuth}, {"corrupt", ErrCorrupt},
		{"diverged", ErrDiverged}, {"disk_full", ErrDiskFull},
	}
}

// KindName returns the name of an error's kind; what has none is unavailable.
func KindName(err error) string {
	for _, k := range kinds() {
		if errors.Is(err, k.kind) {
			return k.name
		}
	}
	return "unavailable"
}

// NamedKind is KindName's inverse. A name that is not known is our own trouble,
// never the user's: ErrUnavailable.
func NamedKind(name string) error {
	for _, k := range kinds() {
		if k.name == name {
			return k.kind
		}
	}
	return ErrUnavailable
}

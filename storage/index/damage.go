package index

import (
	"errors"
	"strings"

	"github.com/cockroachdb/pebble/v2"
)

// ErrDamaged says that files of the index, not records in them, are damaged.
var ErrDamaged = errors.New("index damaged")

// ErrRead says that a file could not be read: nothing was lost by that.
var ErrRead = errors.New("read failed")

// IsDamaged reports whether an error says that files of an index are damaged: by the
// proofs of this package, or by the checksums that Pebble finds wrong.
func IsDamaged(err error) bool { return errors.Is(err, ErrDamaged) || pebble.IsCorruptionError(err) }

// FirstLine returns an error cut to its first line: what Pebble writes below that is of
// no use to an operator.
func FirstLine(err error) error { return firstLine{err} }

type firstLine struct{ err error }

func (f firstLine) Error() string {
	text, _, _ := strings.Cut(f.err.Error(), "\n")
	return strings.TrimSpace(text)
}

func (f firstLine) Unwrap() error { return f.err }

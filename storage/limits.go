package storage

import (
	"strings"
	"unicode/utf8"
)

// The limits at the Store's door (door.go). docs/LIMITS.md shows them to
// operators; TestLimitsTable keeps the two the same.
const (
	// MaxMessageBytes is what RFC822.SIZE, a number of 31 bits for many clients,
	// can say. Frontends have a lower limit, which is a setting.
	MaxMessageBytes       = 1<<31 - 1
	MaxMailboxNameBytes   = 1000 // UTF-8 bytes, all levels
	MaxMailboxLevels      = 30
	MaxMailboxes          = 100_000 // an account's
	MaxKeywordBytes       = 100
	MaxKeywordsPerMessage = 64
	MaxCopyMessages       = 100_000 // one COPY (LAWS §4.3)
	MaxPasswordBytes      = 1000
	MaxSubscriptions      = 100_000
	// MaxTxnRecords is how many records one event touches at the most, large changes
	// excepted (LAWS §4.3).
	MaxTxnRecords = 1000
	// MaxStepMessages is how many messages one event of STORE, EXPUNGE or MOVE
	// changes: few enough that nobody notices a wait.
	MaxStepMessages = 100
	// The internal dates that can be told: years 1 to 9999, Unix seconds.
	MinInternalDateUnix = -62_135_596_800
	MaxInternalDateUnix = 253_402_300_799
)

// Separator divides the levels of a mailbox name.
const Separator = '/'

// CanonicalMailboxName checks a UTF-8 mailbox name and returns the stored form:
// INBOX (also as the first level) in capitals, no trailing separator.
func CanonicalMailboxName(name string) (string, error) {
	name = strings.TrimSuffix(name, "/")
	if len(name) > MaxMailboxNameBytes {
		return "", Errorf(ErrLimit, "mailbox name: %d bytes, at most %d", len(name), MaxMailboxNameBytes)
	}
	if name == "" || !utf8.ValidString(name) {
		return "", Errorf(ErrInvalid, "mailbox name: want 1 to %d bytes of UTF-8", MaxMailboxNameBytes)
	}
	for _, r := range name {
		if r < ' ' || r == 0x7f || r >= 0x80 && r < 0xa0 || r == 0x2028 || r == 0x2029 || r == utf8.RuneError {
			return "", Errorf(ErrInvalid, "mailbox name %q: control characters are not allowed", name)
		}
	}
	levels := strings.Split(name, "/")
	if len(levels) > MaxMailboxLevels {
		return "", Errorf(ErrLimit, "mailbox name: %d levels, at most %d", len(levels), MaxMailboxLevels)
	}
	for _, l := range levels {
		if l == "" {
			return "", Errorf(ErrInvalid, "mailbox name %q: empty level", name)
		}
	}
	if strings.EqualFold(levels[0], "INBOX") {
		levels[0] = "INBOX"
	}
	return strings.Join(levels, "/"), nil
}

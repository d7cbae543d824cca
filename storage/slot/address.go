package slot

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"strings"
)

// MaxAddressLen is the longest address accepted, in bytes (RFC 5321, section
// 4.5.3.1.3: a path of 256 bytes has room for 254).
const MaxAddressLen = 254

// Address is a normalised mail address: local part and domain in lower case.
// Whoever has one has gone through ParseAddress.
type Address string

// ParseAddress checks and normalises an address. Local parts are compared
// without regard to case, as Cyrus and Dovecot do by default.
func ParseAddress(s string) (Address, error) {
	at := strings.LastIndexByte(s, '@')
	if len(s) > MaxAddressLen || at <= 0 || at == len(s)-1 {
		return "", fmt.Errorf("parse address %q: want local@domain of at most %d bytes", shorten(s), MaxAddressLen)
	}
	for _, r := range s {
		if r <= ' ' || r == 0x7f || r == '<' || r == '>' || r == 0xfffd {
			return "", fmt.Errorf("parse address %q: white space, control characters and <> are not allowed", shorten(s))
		}
	}
	return Address(strings.ToLower(s)), nil
}

func shorten(s string) string {
	if len(s) > 80 {
		return s[:80] + "…"
	}
	return s
}

// Home gives the slot that holds an address's record in a cluster of so many
// slots (at least 1): the first 8 bytes of its SHA-256, modulo slots. The
// result is part of the disk format and never changes.
func (a Address) Home(slots int) ID {
	sum := sha256.Sum256([]byte(a))
	return ID(binary.BigEndian.Uint64(sum[:8]) % uint64(slots))
}

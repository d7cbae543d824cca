package slot

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"strings"
	"unicode/utf8"
)

// MaxAddressLen is the longest address accepted, in bytes (RFC 5321, section
// 4.5.3.1.3: a path of 256 bytes has room for 254).
const MaxAddressLen = 254

// Address is a normalised mail address: local part and domain in lower case, the
// local part in quotes only where it cannot be without. So one mailbox has one
// spelling. Whoever has one has gone through ParseAddress.
type Address string

// ParseAddress checks and normalises an address. Local parts are compared
// without regard to case, as Cyrus and Dovecot do by default, and a quoted one
// is what its quotes hold (RFC 5321, section 4.1.2: a system may not treat
// equivalent forms as different). Characters that should be quoted and are not
// are let pass where they are not ambiguous.
func ParseAddress(s string) (Address, error) {
	at := strings.LastIndexByte(s, '@')
	if len(s) > MaxAddressLen || at <= 0 || at == len(s)-1 {
		return "", fmt.Errorf("parse address %q: want local@domain of at most %d bytes", shorten(s), MaxAddressLen)
	}
	local, ok := unquote(s[:at])
	if !ok || local == "" || strings.ContainsFunc(local, isControl) {
		return "", fmt.Errorf("parse address %q: want a local part without control characters, in quotes when it has white space, \", \\, @, < or >", shorten(s))
	}
	if strings.ContainsFunc(s[at+1:], func(r rune) bool { return isControl(r) || strings.ContainsRune(unquotable, r) }) {
		return "", fmt.Errorf("parse address %q: want a domain without white space, control characters, quotes, \\, < and >", shorten(s))
	}
	a := join(strings.ToLower(local), strings.ToLower(s[at+1:]))
	if len(a) > MaxAddressLen { // quotes and other lower case can be longer
		return "", fmt.Errorf("parse address %q: longer than %d bytes when normalised", shorten(s), MaxAddressLen)
	}
	return a, nil
}

// unquotable may stand in a local part only inside quotes, and nowhere in a domain.
const unquotable = " \"\\@<>"

// isControl reports control characters, and bytes that are no UTF-8.
func isControl(r rune) bool { return r < ' ' || r == 0x7f || r == utf8.RuneError }

// unquote returns what a local part stands for.
func unquote(local string) (string, bool) {
	inner, quoted := strings.CutPrefix(local, `"`)
	if !quoted {
		return local, !strings.ContainsAny(local, unquotable)
	}
	var out strings.Builder
	for i := 0; i < len(inner); i++ {
		switch inner[i] {
		case '"':
			return out.String(), i == len(inner)-1
		case '\\':
			if i++; i == len(inner) {
				return "", false
			}
		}
		out.WriteByte(inner[i])
	}
	return "", false
}

// join is unquote's inverse.
func join(local, domain string) Address {
	if strings.ContainsAny(local, unquotable+"()[]:;,") {
		local = `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(local) + `"`
	}
	return Address(local + "@" + domain)
}

// WithoutDetail returns the address without its "+detail" (RFC 5233, section
// 4), if it has one behind a name.
func (a Address) WithoutDetail() (Address, bool) {
	at := strings.LastIndexByte(string(a), '@')
	local, _ := unquote(string(a[:at]))
	user, _, found := strings.Cut(local, "+")
	if !found || user == "" {
		return a, false
	}
	return join(user, string(a[at+1:])), true
}

func shorten(s string) string {
	if len(s) > 80 {
		return s[:80] + "…"
	}
	return s
}

// Home returns the slot that holds an address's record in a cluster of so many
// slots (at least 1): the first 8 bytes of its SHA-256, modulo slots. The
// result is part of the disk format and never changes.
func (a Address) Home(slots int) ID {
	sum := sha256.Sum256([]byte(a))
	return ID(binary.BigEndian.Uint64(sum[:8]) % uint64(slots))
}

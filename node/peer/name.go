package peer

import (
	"fmt"

	"mailnode/storage/slot"
)

// NameMax is the longest node name, in bytes.
const NameMax = 31

// CheckName says what is wrong with a node name: it is a DNS name in a
// certificate, a file name and a word that people type, so it is kept to
// [a-z0-9][a-z0-9-]{0,30}.
func CheckName(name slot.NodeName) error {
	ok := name != "" && len(name) <= NameMax && name[0] != '-'
	for _, r := range name {
		ok = ok && (r >= 'a' && r <= 'z' || r >= '0' && r <= '9' || r == '-')
	}
	if !ok {
		return fmt.Errorf("check node name %q: want 1 to %d of a-z, 0-9 and \"-\", not beginning with \"-\"", shorten(string(name), 40), NameMax)
	}
	return nil
}

// shorten keeps what comes from outside from filling logs and screens.
func shorten(s string, most int) string {
	if len(s) > most {
		return s[:most] + "…"
	}
	return s
}

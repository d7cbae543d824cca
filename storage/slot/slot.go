// Package slot is the vocabulary of mailnode: slots, epochs, positions,
// lineages, GUIDs and addresses. Every other package speaks in these types.
// It imports the standard library only, holds no state and does no I/O.
package slot

import (
	"fmt"
	"strconv"
	"strings"
)

// MaxSlots is the largest number of slots that a cluster may have.
const MaxSlots = 10000

// ID names a slot: 0 is s000, 7 is s007. A cluster fixes how many there are.
type ID uint16

// String returns the operator's form, "s007".
func (id ID) String() string { return fmt.Sprintf("s%03d", uint16(id)) }

// ParseID reads the operator's form of a slot ID.
func ParseID(s string) (ID, error) {
	digits, ok := strings.CutPrefix(s, "s")
	n, err := strconv.ParseUint(digits, 10, 16)
	if !ok || err != nil || n >= MaxSlots || ID(n).String() != s {
		return 0, fmt.Errorf("parse slot %q: want a name such as s007", s)
	}
	return ID(n), nil
}

// MarshalText makes an ID its operator's form in JSON, also as a map key.
func (id ID) MarshalText() ([]byte, error) { return []byte(id.String()), nil }

// UnmarshalText is the inverse of MarshalText.
func (id *ID) UnmarshalText(b []byte) error {
	v, err := ParseID(string(b))
	if err != nil {
		return err
	}
	*id = v
	return nil
}

// Epoch is a slot's ownership number: +1 at each change of master, and the
// fencing token of everything that a master says (law 4). The first is 1.
type Epoch uint32

// MaxEpoch keeps every MODSEQ inside 63 bits (RFC 7162, section 3.1.1).
const MaxEpoch Epoch = 1<<22 - 1

// UncleanCount counts the unclean epochs of a slot, as Raft recorded them. It
// selects the ranges that UIDs and UIDVALIDITYs are given out from (law 2).
type UncleanCount uint32

// Generation is the cluster's recovery generation: a lost majority that comes
// back after `cluster recover` is refused by it.
type Generation uint32

// NodeName names a node or witness, for instance "n1".
type NodeName string

package slot

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
)

// GUID is the SHA-256 of a message's bytes.
type GUID [sha256.Size]byte

// SumGUID hashes a message held in memory.
func SumGUID(body []byte) GUID { return sha256.Sum256(body) }

// String returns lower-case hex.
func (g GUID) String() string { return hex.EncodeToString(g[:]) }

// GUIDFromBytes copies a stored GUID; it refuses any other length.
func GUIDFromBytes(b []byte) (GUID, error) {
	var g GUID
	if len(b) != len(g) {
		return g, fmt.Errorf("read GUID: %d bytes, want %d", len(b), len(g))
	}
	copy(g[:], b)
	return g, nil
}

// BodyID tells apart bodies with the same GUID: one body is shared only by what
// one command makes. It is random, chosen by the node that accepted the message.
type BodyID uint64

// BodyRef names one stored body.
type BodyRef struct {
	GUID GUID
	ID   BodyID
}

// String returns the form that operators see.
func (r BodyRef) String() string { return fmt.Sprintf("%s.%016x", r.GUID, uint64(r.ID)) }

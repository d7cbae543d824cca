package peer

import (
	"errors"
	"fmt"
	"io"
	"slices"

	"mailnode/storage/slot"
)

// Version is the protocol that this release speaks, VersionOldest the oldest
// that it still understands. Neighbouring releases overlap, so that a cluster
// is upgraded node by node.
const (
	Version       = 1
	VersionOldest = 1
)

const (
	helloMax      = 8 << 10 // bytes of a HELLO's payload
	featuresMax   = 64
	featureMaxLen = 64 // bytes
	refusalMaxLen = 1 << 10
)

// Hello is the first thing said on every connection between members, by the
// dialler and then by the one dialled.
type Hello struct {
	Cluster    string          `json:"cluster"`
	Generation slot.Generation `json:"generation"`
	Name       slot.NodeName   `json:"name"`
	Version    int             `json:"version"`
	Oldest     int             `json:"oldest"`
	Features   []string        `json:"features,omitempty"`
	// Refusal, in the answer, is why this connection will be closed now.
	Refusal string `json:"refusal,omitempty"`
	// Gone, beside Refusal, says that whoever dialled is no member any more.
	Gone bool `json:"gone,omitempty"`
	// Word, in a refusal of a lower generation, is what the other node is to do about it,
	// as package node writes it; "": nothing is known yet.
	Word string `json:"word,omitempty"`
}

// Has reports whether the node announced a feature.
func (h Hello) Has(feature string) bool { return slices.Contains(h.Features, feature) }

// GenerationError says that the two sides belong to different generations of
// the cluster: one of them was left behind by `cluster recover`.
type GenerationError struct {
	Peer   slot.NodeName
	Own    slot.Generation
	Theirs slot.Generation
	Word   string // see Hello; "" when this side was dialled
}

// Error names the one that was left behind.
func (e *GenerationError) Error() string {
	if e.Theirs < e.Own {
		return fmt.Sprintf("this node belongs to generation %d, %q to %d: it was left behind by `cluster recover`", e.Own, e.Peer, e.Theirs)
	}
	return fmt.Sprintf("this node belongs to generation %d, %q to %d: this node was left behind by `cluster recover`", e.Own, e.Peer, e.Theirs)
}

// hello returns what this node says of itself.
func (id *Identity) hello(features []string) Hello {
	return Hello{Cluster: id.cluster, Generation: id.Generation(), Name: id.name, Version: Version, Oldest: VersionOldest, Features: features}
}

func writeHello(w io.Writer, h Hello) error { return writeFrame(w, magicHello(), h, helloMax) }

func readHello(r io.Reader) (Hello, error) {
	var h Hello
	if err := readFrame(r, magicHello(), &h, helloMax); err != nil {
		return Hello{}, err
	}
	if len(h.Features) > featuresMax || slices.ContainsFunc(h.Features, func(f string) bool { return len(f) > featureMaxLen }) {
		return Hello{}, fmt.Errorf("read HELLO: more than %d features, or one of more than %d bytes", featuresMax, featureMaxLen)
	}
	h.Refusal = shorten(h.Refusal, refusalMaxLen)
	return h, nil
}

// judge reports whether a connection with theirs may go on; own is what this node
// says and certified the name in the other side's certificate.
func judge(own, theirs Hello, certified slot.NodeName) error {
	switch {
	case theirs.Name != certified:
		return fmt.Errorf("%w: it says it is %q, its certificate says %q", ErrWrongName, shorten(string(theirs.Name), 40), certified)
	case theirs.Cluster != own.Cluster:
		return fmt.Errorf("%w: %q belongs to cluster %q, this node to %q", ErrOtherCluster, certified, shorten(theirs.Cluster, 40), own.Cluster)
	case theirs.Generation != own.Generation:
		return &GenerationError{Peer: certified, Own: own.Generation, Theirs: theirs.Generation, Word: theirs.Word}
	case theirs.Version < own.Oldest || own.Version < theirs.Oldest:
		return fmt.Errorf("node %q speaks versions %d to %d, this node %d to %d: upgrade one release at a time",
			certified, theirs.Oldest, theirs.Version, own.Oldest, own.Version)
	}
	return nil
}

// refusalFor words a refusal for the other side's log, where "this node" would
// mean the wrong one.
func refusalFor(own Hello, err error) string {
	var g *GenerationError
	if errors.As(err, &g) {
		return fmt.Sprintf("%q belongs to generation %d, the caller %q to %d", own.Name, g.Own, g.Peer, g.Theirs)
	}
	return shorten(err.Error(), refusalMaxLen)
}

// RefusedError is what the node that was dialled said when it closed.
type RefusedError struct {
	Peer   slot.NodeName
	Reason string // its words
	Gone   bool   // this node is no member any more
}

// Error returns the other node's words.
func (e *RefusedError) Error() string { return fmt.Sprintf("node %q refuses: %s", e.Peer, e.Reason) }

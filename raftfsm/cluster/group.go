package cluster

import "fmt"

// Limits of one log entry with several commands.
const (
	MaxGroup      = 64       // commands
	MaxGroupBytes = 64 << 10 // bytes of their bodies; a larger command stands alone
)

// kindGroup is the name on disk of a log entry with several commands, so that the
// failover of a node's slots is a handful of entries. It is no command: each of those
// in it is applied, or refused, for itself, and one that is refused stops none of the
// others. Nobody sees a state in the middle of an entry: the version of a record, which
// is the index of an entry, still names one record.
const kindGroup = "group"

// PermitGroup refuses groups below their feature level. Apply asks again.
func (s *State) PermitGroup() error { return s.permitKind(kindGroup, 0, featureOf) }

// EncodeEntry returns the bytes of a log entry with these commands, at least one. One
// is written as by Encode.
func EncodeEntry(list []Command) []byte {
	if len(list) == 1 {
		return Encode(list[0])
	}
	group := make([]envelope, 0, len(list))
	for _, c := range list {
		group = append(group, envelope{Kind: c.kind(), Body: encodeJSON(c)})
	}
	return seal(commandVersion, encodeJSON(envelope{Kind: kindGroup, Body: encodeJSON(group)}))
}

// SizeIn returns how many bytes a command adds to a group.
func SizeIn(c Command) int { return len(encodeJSON(c)) }

// DecodeEntry is the inverse of EncodeEntry, with the errors of Decode.
func DecodeEntry(b []byte) ([]Command, error) {
	e, err := openEnvelope(b)
	if err != nil {
		return nil, err
	}
	if e.Kind != kindGroup {
		c, err := e.command()
		if err != nil {
			return nil, err
		}
		return []Command{c}, nil
	}
	var group []envelope
	if err := decodeJSON(e.Body, &group); err != nil {
		return nil, fmt.Errorf("decode group of commands: %w", err)
	}
	if len(group) < 2 || len(group) > MaxGroup {
		return nil, fmt.Errorf("decode group of %d commands: %w", len(group), ErrNewer)
	}
	list := make([]Command, 0, len(group))
	for _, e := range group {
		c, err := e.command()
		if err != nil {
			return nil, fmt.Errorf("decode group of commands: %w", err)
		}
		list = append(list, c)
	}
	return list, nil
}

// Applied is what became of one command of a log entry.
type Applied struct {
	Result Result
	Err    error // a refusal; Result then has the index of the state that refused
}

// ApplyEntry executes the commands of one log entry in their order. It is Apply for
// each of them.
func (s *State) ApplyEntry(index uint64, list []Command) (out []Applied, changed bool) {
	var refused error
	if len(list) > 1 {
		refused = s.PermitGroup()
	}
	out = make([]Applied, len(list))
	for i, c := range list {
		a := Applied{Err: refused}
		if refused == nil {
			a.Result, a.Err = s.Apply(index, c)
		}
		if a.Err != nil {
			a.Result.Index = s.Index
		}
		changed = changed || a.Err == nil
		out[i] = a
	}
	return out, changed
}

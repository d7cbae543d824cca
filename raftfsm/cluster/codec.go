package cluster

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"strings"

	"mailnode/storage/slot"
)

// A command is stored as one version byte, the CRC-32C of all the rest with the
// version in front, and JSON. A snapshot has the same frame with its own marker.
const (
	commandVersion  = 0x01
	snapshotVersion = 0x81
	snapshotFormat  = 1
	frameHead       = 5
)

// envelope is the JSON of a command.
type envelope struct {
	Kind string          `json:"k"`
	Body json.RawMessage `json:"c"`
}

// Encode returns the bytes that go into a Raft log entry.
func Encode(c Command) []byte {
	return seal(commandVersion, encodeJSON(envelope{Kind: c.kind(), Body: encodeJSON(c)}))
}

// Decode is the inverse of Encode. ErrCorrupt means damaged bytes; ErrNewer
// means a command or a field that this release does not know.
func Decode(b []byte) (Command, error) {
	e, err := openEnvelope(b)
	if err != nil {
		return nil, err
	}
	return e.command()
}

func openEnvelope(b []byte) (e envelope, err error) {
	body, err := open(commandVersion, b)
	if err == nil {
		err = decodeJSON(body, &e)
	}
	if err != nil {
		return e, fmt.Errorf("decode command: %w", err)
	}
	return e, nil
}

func (e envelope) command() (Command, error) {
	c, err := decodeBody(e.Kind, e.Body)
	if err != nil {
		return nil, fmt.Errorf("decode command %q: %w", e.Kind, err)
	}
	return c, nil
}

// decodeBody is the closed list of commands by their names on disk.
func decodeBody(kind string, body []byte) (Command, error) {
	switch kind {
	case Init{}.kind():
		return bodyOf[Init](body)
	case AddMember{}.kind():
		return bodyOf[AddMember](body)
	case UpdateMember{}.kind():
		return bodyOf[UpdateMember](body)
	case RemoveMember{}.kind():
		return bodyOf[RemoveMember](body)
	case ReplaceMember{}.kind():
		return bodyOf[ReplaceMember](body)
	case AssignSlot{}.kind():
		return bodyOf[AssignSlot](body)
	case AddReplica{}.kind():
		return bodyOf[AddReplica](body)
	case SetReplicas{}.kind():
		return bodyOf[SetReplicas](body)
	case BeginDrop{}.kind():
		return bodyOf[BeginDrop](body)
	case CancelDrop{}.kind():
		return bodyOf[CancelDrop](body)
	case EndDrop{}.kind():
		return bodyOf[EndDrop](body)
	case SetUnprotected{}.kind():
		return bodyOf[SetUnprotected](body)
	case SetProtected{}.kind():
		return bodyOf[SetProtected](body)
	case OpenProposal{}.kind():
		return bodyOf[OpenProposal](body)
	case UpdateProposal{}.kind():
		return bodyOf[UpdateProposal](body)
	case WithdrawProposal{}.kind():
		return bodyOf[WithdrawProposal](body)
	case RejectProposal{}.kind():
		return bodyOf[RejectProposal](body)
	case ConfirmSlot{}.kind():
		return bodyOf[ConfirmSlot](body)
	case BeginHandOver{}.kind():
		return bodyOf[BeginHandOver](body)
	case CommitHandOver{}.kind():
		return bodyOf[CommitHandOver](body)
	case AbortHandOver{}.kind():
		return bodyOf[AbortHandOver](body)
	case ResolveLoss{}.kind():
		return bodyOf[ResolveLoss](body)
	case AddToken{}.kind():
		return bodyOf[AddToken](body)
	case AgeTokens{}.kind():
		return bodyOf[AgeTokens](body)
	case RaiseGeneration{}.kind():
		return bodyOf[RaiseGeneration](body)
	case RaiseFeatureLevel{}.kind():
		return bodyOf[RaiseFeatureLevel](body)
	}
	return decodeMove(kind, body)
}

// decodeMove is decodeBody for what moves copies.
func decodeMove(kind string, body []byte) (Command, error) {
	switch kind {
	case PlanMoves{}.kind():
		return bodyOf[PlanMoves](body)
	case BeginMove{}.kind():
		return bodyOf[BeginMove](body)
	case FinishMove{}.kind():
		return bodyOf[FinishMove](body)
	case GiveUpMove{}.kind():
		return bodyOf[GiveUpMove](body)
	case UndoMove{}.kind():
		return bodyOf[UndoMove](body)
	case StopMoves{}.kind():
		return bodyOf[StopMoves](body)
	}
	return nil, ErrNewer
}

func (Init) kind() string             { return "init" }
func (AddMember) kind() string        { return "add-member" }
func (UpdateMember) kind() string     { return "update-member" }
func (RemoveMember) kind() string     { return "remove-member" }
func (AssignSlot) kind() string       { return "assign" }
func (AddReplica) kind() string       { return "add-replica" }
func (SetUnprotected) kind() string   { return "unprotected" }
func (SetProtected) kind() string     { return "protected" }
func (OpenProposal) kind() string     { return "propose" }
func (UpdateProposal) kind() string   { return "update-proposal" }
func (WithdrawProposal) kind() string { return "withdraw" }
func (RejectProposal) kind() string   { return "reject" }
func (ConfirmSlot) kind() string      { return "confirm" }
func (ResolveLoss) kind() string      { return "resolve-loss" }
func (AddToken) kind() string         { return "add-token" }
func (AgeTokens) kind() string        { return "age-tokens" }

func bodyOf[C Command](body []byte) (Command, error) {
	var c C
	if err := decodeJSON(body, &c); err != nil {
		return nil, err
	}
	return c, nil
}

// EncodeSnapshot returns the whole state; equal states give equal bytes.
func EncodeSnapshot(s *State) []byte { return seal(snapshotVersion, encodeJSON(s)) }

// DecodeSnapshot is the inverse of EncodeSnapshot, with the errors of Decode.
func DecodeSnapshot(b []byte) (*State, error) {
	body, err := open(snapshotVersion, b)
	if err != nil {
		return nil, fmt.Errorf("decode snapshot: %w", err)
	}
	s := new(State)
	if err := decodeJSON(body, s); err != nil {
		return nil, fmt.Errorf("decode snapshot: %w", err)
	}
	if s.Format != snapshotFormat {
		return nil, fmt.Errorf("decode snapshot of format %d: %w", s.Format, ErrNewer)
	}
	if err := s.check(); err != nil {
		return nil, fmt.Errorf("decode snapshot: %w", err)
	}
	return s, nil
}

// check finds what would make Apply or a reader index past an end.
func (s *State) check() error {
	if len(s.Slots) != s.SlotCount || s.SlotCount > slot.MaxSlots {
		return fmt.Errorf("%d slots listed, %d counted: %w", len(s.Slots), s.SlotCount, ErrCorrupt)
	}
	for i, sl := range s.Slots {
		if int(sl.ID) != i {
			return fmt.Errorf("slot %q stands at place %d: %w", sl.ID, i, ErrCorrupt)
		}
	}
	for i := 1; i < len(s.Members); i++ {
		if s.Members[i-1].Name >= s.Members[i].Name {
			return fmt.Errorf("member %q is out of order: %w", s.Members[i].Name, ErrCorrupt)
		}
	}
	return nil
}

func seal(version byte, body []byte) []byte {
	b := make([]byte, frameHead, frameHead+len(body))
	b[0] = version
	b = append(b, body...)
	binary.BigEndian.PutUint32(b[1:frameHead], frameSum(version, body))
	return b
}

// open checks the sum before the version: a damaged version byte is damage, not
// a newer release.
func open(version byte, b []byte) ([]byte, error) {
	if len(b) < frameHead {
		return nil, fmt.Errorf("%d bytes: %w", len(b), ErrCorrupt)
	}
	body := b[frameHead:]
	if binary.BigEndian.Uint32(b[1:frameHead]) != frameSum(b[0], body) {
		return nil, ErrCorrupt
	}
	if b[0] != version {
		return nil, fmt.Errorf("version %d: %w", b[0], ErrNewer)
	}
	return body, nil
}

func frameSum(version byte, body []byte) uint32 {
	table := crc32.MakeTable(crc32.Castagnoli)
	return crc32.Update(crc32.Checksum([]byte{version}, table), table, body)
}

// encodeJSON cannot fail: commands and the state are plain values.
func encodeJSON(v any) []byte {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		panic(fmt.Sprintf("cluster: encode %T: %v", v, err))
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n"))
}

// decodeJSON is strict: a field that this release does not know may change what
// a command means. The sum was right, so what does not parse is newer, not damaged.
func decodeJSON(b []byte, v any) error {
	dec := json.NewDecoder(bytes.NewReader(b))
	dec.DisallowUnknownFields()
	if err := dec.Decode(v); err != nil {
		return fmt.Errorf("%w: %s", ErrNewer, strings.TrimPrefix(err.Error(), "json: "))
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return fmt.Errorf("%w: more bytes than one value", ErrNewer)
	}
	return nil
}

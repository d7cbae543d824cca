package event

import (
	"errors"
	"testing"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"mailnode/storage"
	"mailnode/storage/slot"
)

// futureChange is what a later release may write: a kind with field number 99.
func futureChange(t *testing.T) *Change {
	t.Helper()
	raw := protowire.AppendTag(nil, 99, protowire.BytesType)
	raw = protowire.AppendBytes(raw, []byte("a record of a release to come"))
	c := &Change{}
	if err := proto.Unmarshal(raw, c); err != nil {
		t.Fatal(err)
	}
	return c
}

// TestEveryChangeHasALevel goes through the oneof, so that none is forgotten.
func TestEveryChangeHasALevel(t *testing.T) {
	kinds := (&Change{}).ProtoReflect().Descriptor().Oneofs().ByName("record").Fields()
	for i := range kinds.Len() {
		c := &Change{}
		c.ProtoReflect().Set(kinds.Get(i), c.ProtoReflect().NewField(kinds.Get(i)))
		if level, ok := featureOf(c); !ok || level < slot.FirstFeatureLevel {
			t.Errorf("change %q has feature level %d (listed: %v)", kinds.Get(i).Name(), level, ok)
		}
		if err := Permit(0, []*Change{c}); err != nil {
			t.Errorf("change %q at the first level: %v", kinds.Get(i).Name(), err)
		}
	}
}

// TestLaw05FutureChange: a change that this release does not know is refused by
// whoever would write it, and by whoever would apply it; its bytes are kept.
func TestLaw05FutureChange(t *testing.T) {
	c := futureChange(t)
	if err := Permit(99, []*Change{c}); !errors.Is(err, storage.ErrInvalid) {
		t.Errorf("permitted: %v", err)
	}
	two := func(*Change) (slot.FeatureLevel, bool) { return 2, true } // as the release that brings it has it
	for level, want := range map[slot.FeatureLevel]error{0: storage.ErrUnavailable, 1: storage.ErrUnavailable, 2: nil, 3: nil} {
		if err := permit(level, []*Change{c}, two); !errors.Is(err, want) {
			t.Errorf("a change of level 2 in a cluster of level %d: %v", level, err)
		}
	}
	ev := &Event{Position: uint64(slot.At(1, 1)), Changes: []*Change{c}}
	back, err := Decode(Encode(ev))
	if err != nil || !proto.Equal(ev, back) {
		t.Errorf("%v came back as %v, %v", ev, back, err)
	}
	if err := Apply(nothing{}, back); !errors.Is(err, storage.ErrInvalid) {
		t.Errorf("applied: %v", err)
	}
}

type nothing struct{}

func (nothing) Get([]byte) ([]byte, bool, error) { return nil, false, nil }
func (nothing) Set(_, _ []byte)                  {}
func (nothing) Delete([]byte)                    {}

package cluster

import (
	"bytes"
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestGroupIsItsCommands: a group does what its commands do one after another, each
// with its own result or refusal.
func TestGroupIsItsCommands(t *testing.T) {
	list := []Command{
		SetProtected{Slot: 0, Epoch: 1, InSync: names("n3")},
		RemoveMember{Name: "n7"}, // there is none
		ConfirmSlot{Proposal: "p1", Slot: 0, Epoch: 1, To: "n2", Unclean: true},
		AssignSlot{Slot: 2, Master: "n3"},
	}
	one, group := sample(t), sample(t)
	one.FeatureLevel, group.FeatureLevel = operatorFeatures, operatorFeatures
	list[0] = decidedOn(one, list[0])
	var want []Applied
	for _, c := range list {
		r, err := one.Apply(30, c)
		if err != nil {
			r.Index = one.Index
		}
		want = append(want, Applied{r, err})
	}
	read, err := DecodeEntry(EncodeEntry(list))
	if err != nil {
		t.Fatal(err)
	}
	got, changed := group.ApplyEntry(30, read)
	if diff := cmp.Diff(want, got); diff != "" || !changed {
		t.Errorf("changed %v; %s", changed, diff)
	}
	if diff := cmp.Diff(one, group); diff != "" {
		t.Error(diff)
	}
	// The confirm was decided on the record before the group: it was refused, not done.
	if !errors.As(got[2].Err, new(ErrChanged)) || got[1].Err == nil || got[3].Err != nil {
		t.Errorf("%+v", got)
	}
}

// TestGroupWaitsForItsLevel: a member of an older release could not read it.
func TestGroupWaitsForItsLevel(t *testing.T) {
	s := sample(t)
	s.FeatureLevel = 1
	if s.PermitGroup() == nil {
		t.Fatalf("permitted at level %d", s.Features())
	}
	before := EncodeSnapshot(s)
	got, changed := s.ApplyEntry(30, []Command{AssignSlot{Slot: 2, Master: "n3"}, RemoveMember{Name: "w1"}})
	for _, a := range got {
		if !errors.As(a.Err, new(ErrInvalid)) || a.Result.Index != s.Index {
			t.Errorf("%+v", a)
		}
	}
	if changed || !bytes.Equal(before, EncodeSnapshot(s)) {
		t.Error("it has changed the state")
	}
}

// TestGroupsThatNobodyWrites: what this release never writes was written by a newer
// one, or is damage.
func TestGroupsThatNobodyWrites(t *testing.T) {
	entry := func(body string) []byte { return seal(commandVersion, []byte(`{"k":"group","c":`+body+`}`)) }
	const one = `{"k":"remove-member","c":{"name":"n1"}}`
	long := "[" + one
	for range MaxGroup {
		long += "," + one
	}
	for name, body := range map[string]string{
		"empty":            `[]`,
		"of one":           `[` + one + `]`,
		"too long":         long + `]`,
		"unknown command":  `[` + one + `,{"k":"teleport","c":{}}]`,
		"a group in it":    `[` + one + `,{"k":"group","c":[` + one + `,` + one + `]}]`,
		"an unknown field": `[` + one + `,{"k":"remove-member","c":{"name":"n1"},"x":1}]`,
		"no list":          one,
	} {
		if _, err := DecodeEntry(entry(body)); !errors.Is(err, ErrNewer) {
			t.Errorf("%s: %v", name, err)
		}
	}
	good := EncodeEntry([]Command{RemoveMember{Name: "n1"}, RemoveMember{Name: "n2"}})
	if _, err := Decode(good); !errors.Is(err, ErrNewer) {
		t.Errorf("a group is not one command: %v", err)
	}
	for i := range good {
		bad := bytes.Clone(good)
		bad[i] ^= 0x40
		if _, err := DecodeEntry(bad); !errors.Is(err, ErrCorrupt) {
			t.Errorf("byte %d flipped: %v", i, err)
		}
	}
}

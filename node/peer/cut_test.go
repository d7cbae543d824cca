package peer

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"

	"mailnode/storage/slot"
)

// TestConnectionsOfWhoIsGoneAreCut: who leaves loses what it has open, in both directions;
// when it calls again it is told that it is gone for good. It is not called either.
func TestConnectionsOfWhoIsGoneAreCut(t *testing.T) {
	n1 := newCluster(t)
	n2, n3 := newMember(t, n1, "n2"), newMember(t, n1, "n3")
	gone := func(name slot.NodeName, key string) error {
		if name == "n2" && key == n2.KeyHash() {
			return fmt.Errorf("n2 was removed by eve: %w", ErrGone)
		}
		return nil
	}
	admits := func(slot.NodeName, string) error { return nil }
	var admit func(slot.NodeName, string) error = admits
	s, err := Listen("127.0.0.1:0", n1, Options{Admit: func(n slot.NodeName, key string) error { return admit(n, key) }})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	var told string
	call := func(id *Identity) (*Conn, error) {
		return NewDialer(id, Options{OnGone: func(by slot.NodeName, why string) { told = fmt.Sprintf("%s: %s", by, why) }}).
			Dial(t.Context(), ProtoGRPC, "n1", s.Addr().String())
	}
	from2, err := call(n2)
	if err != nil {
		t.Fatal(err)
	}
	from3, err := call(n3)
	if err != nil {
		t.Fatal(err)
	}
	defer from3.Close()
	for range 2 {
		if _, err := s.Listener(ProtoGRPC).Accept(); err != nil {
			t.Fatal(err)
		}
	}
	there := startServer(t, n2, Options{})
	out := NewDialer(n1, Options{Admit: func(n slot.NodeName, key string) error { return admit(n, key) }})
	to2, err := out.Dial(t.Context(), ProtoRaft, "", there.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	if n := n1.Cut(admits); n != 0 {
		t.Errorf("%d connections of members were cut", n)
	}
	admit = gone
	if n := n1.Cut(gone); n != 2 {
		t.Errorf("%d connections were cut, want 2", n)
	}
	for name, c := range map[string]*Conn{"from n2": from2, "to n2": to2} {
		if _, err := c.Read(make([]byte, 1)); err == nil {
			t.Errorf("the connection %s is open", name)
		} else if name == "from n2" && !errors.Is(err, io.EOF) && !strings.Contains(err.Error(), "reset") {
			t.Errorf("the connection %s: %v", name, err)
		}
	}
	var refused *RefusedError
	if _, err := call(n2); !errors.As(err, &refused) || !refused.Gone || told != "n1: "+refused.Reason || !strings.Contains(told, "removed by eve") {
		t.Errorf("n2 calls again: %v; it was told %q", err, told)
	}
	if _, err := out.Dial(t.Context(), ProtoRaft, "", there.Addr().String()); !errors.Is(err, ErrGone) {
		t.Errorf("n2 is called: %v", err)
	}
	to2.Close()
	from2.Close()
}

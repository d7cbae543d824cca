package peer

import (
	"net"
	"testing"

	"golang.org/x/sys/unix"
)

// TestDeadPathIsNoticed: both ends of a connection carry the limits that make a
// black hole known in under 30 s.
func TestDeadPathIsNoticed(t *testing.T) {
	n1 := newCluster(t)
	s := startServer(t, n1, Options{})
	c, err := NewDialer(newMember(t, n1, "n2"), Options{}).Dial(t.Context(), ProtoRaft, "n1", s.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	accepted := s.handedOn(t, 1)
	if len(accepted) != 1 {
		t.Fatalf("%d accepted", len(accepted))
	}
	for side, c := range map[string]*Conn{"dialler": c, "dialled": accepted[0]} {
		raw, err := c.NetConn().(*net.TCPConn).SyscallConn()
		if err != nil {
			t.Fatal(err)
		}
		for option, want := range map[int]int{unix.TCP_USER_TIMEOUT: 20_000, unix.TCP_KEEPIDLE: 10, unix.TCP_KEEPINTVL: 5, unix.TCP_KEEPCNT: 2} {
			got := -1
			if err := raw.Control(func(fd uintptr) {
				got, err = unix.GetsockoptInt(int(fd), unix.IPPROTO_TCP, option)
			}); err != nil || got != want {
				t.Errorf("%s: option %d is %d, want %d (%v)", side, option, got, want, err)
			}
		}
	}
}

package cli_test

import (
	"bytes"
	"errors"
	"os/exec"
	"strings"
	"sync"
	"time"
)

// hungNode asks a living node, and one whose process is stopped, with every kind
// of verb: each ends, names who was waited for, and says what to do.
func (s *system) hungNode(living, hung demoNode) {
	s.t.Helper()
	var owned string                           // a user whose slot the hung node is master of
	code, out := s.cli(living, "user", "list") // it waits for the hung node once, not once a slot
	if code != 1 || !strings.Contains(out, "the list is not complete") || !strings.Contains(out, "waited in vain for n3") {
		s.t.Errorf("user list while n3 hangs: exit %d: %s", code, out)
	}
	for _, u := range s.demo().Users {
		if !strings.Contains(out, u) {
			owned = u
		}
	}
	if owned == "" {
		s.t.Fatalf("n3 is master of no user's slot: %s", out)
	}
	const long = 15 * time.Second
	var wg sync.WaitGroup
	for _, c := range []struct {
		at    demoNode
		args  string
		code  int
		words []string
	}{
		{living, "status", 0, nil},
		{living, "failover list", 0, nil},
		{living, "slot list", 0, nil},
		{living, "slot show s000", 0, nil},
		{living, "user show " + owned, 1, []string{"n3"}},
		{living, "user quota " + owned + " 1G", 1, []string{"n3", "the outcome is unknown"}},
		{hung, "status", 1, []string{"waited 5 s for the node at", "ask another node"}},
		{hung, "failover list", 1, []string{"waited 5 s for the node at", "ask another node"}},
		{hung, "failover confirm --yes", 1, []string{"waited 5 s for the node at", "nothing was asked of it"}},
	} {
		wg.Go(func() {
			began := time.Now()
			out, err := exec.Command(s.bin, append([]string{"--socket", c.at.Admin}, strings.Fields(c.args)...)...).CombinedOutput()
			var exit *exec.ExitError
			code := 0
			if errors.As(err, &exit) {
				code = exit.ExitCode()
			}
			took := time.Since(began)
			ok := code == c.code && took < long && !bytes.Contains(out, []byte("rpc error")) && !bytes.Contains(out, []byte("desc ="))
			for _, w := range c.words {
				ok = ok && bytes.Contains(out, []byte(w))
			}
			if !ok {
				s.t.Errorf("%s while n3 hangs: exit %d after %s, want %d: %s", c.args, code, took.Round(time.Millisecond), c.code, out)
			}
		})
	}
	wg.Wait()
}

package cli

import (
	"bytes"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// TestMuteNode: no verb hangs with a node that hangs, and each says what to do.
func TestMuteNode(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a.sock")
	ln, err := net.Listen("unix", path) // the kernel takes calls, nobody answers
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	began := time.Now()
	var wg sync.WaitGroup
	for _, line := range []string{"status", "status --json", "user list", "user show u@example.org", "user add u@example.org", "user passwd u@example.org",
		"user quota u@example.org 1G", "user delete u@example.org --yes", "user undelete u@example.org --yes", "user list --deleted",
		"failover", "failover list", "failover show", "failover confirm --yes", "failover reject p3", "fo confirm p3 --slot s001 --accept-loss --yes",
		"slot list", "slot show s001", "slot audit s001", "slot missing", "slot reindex s001", "rescue dismiss s001 --yes",
		"cluster members", "cluster token n9", "cluster upgrade", "job list", "job show j1", "job show j1 --follow", "job stop j1"} {
		wg.Go(func() {
			var out, errs bytes.Buffer
			exit := Run(append([]string{"--socket", path}, strings.Fields(line)...), strings.NewReader("secret\n"), &out, &errs, nil)
			text := errs.String()
			if exit != 1 || !strings.Contains(text, "waited 5 s for the node at") || !strings.Contains(text, "ask another node") ||
				!strings.Contains(text, "next: mailnode status, on another node") {
				t.Errorf("%s: exit %d: %s%s", line, exit, out.String(), text)
			}
		})
	}
	wg.Wait()
	if took := time.Since(began); took > 15*time.Second {
		t.Errorf("it took %s", took)
	}
}

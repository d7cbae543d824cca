package cli

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"mailnode/node/admin"
	"mailnode/node/config"
	"mailnode/node/peer"
)

// TestLastLineOfAFailedStart: whatever was logged before, the last line of a node that
// cannot start says why, and what to type.
func TestLastLineOfAFailedStart(t *testing.T) {
	file := filepath.Join(t.TempDir(), "mailnode.toml")
	if err := os.WriteFile(file, []byte("name = \"n1\"\nhostname = \"m.example.org\"\ndata = \"/srv/mail\"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		why  error
		want []string
	}{
		{errors.New("setting `imap`: listen: address already in use"), []string{`serve node "n1"`, "setting `imap`", "already in use"}},
		{fmt.Errorf("open node: %w", peer.ErrNoCluster), []string{"/srv/mail has no identity", "next: mailnode cluster join"}},
	} {
		serve := func(_ context.Context, _ config.Config, log *slog.Logger, _ string, _ func()) error {
			log.Error("node stops")
			return c.why
		}
		var stdout, stderr bytes.Buffer
		if exit := Run([]string{"serve", "--config", file}, strings.NewReader(""), &stdout, &stderr, serve); exit != admin.ExitFailed {
			t.Errorf("%v: exit %d", c.why, exit)
		}
		lines := strings.Split(strings.TrimSuffix(stderr.String(), "\n"), "\n")
		for _, part := range c.want {
			if last := lines[len(lines)-1]; !strings.Contains(last, part) {
				t.Errorf("%v: the last line is %q, want %q in it", c.why, last, part)
			}
		}
	}
}

package node

import (
	"context"
	"io"
	"net/http"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
)

// A metric that is declared is there in a node that has served one login. Only what
// counts by slot or reason begins when it first happens.
func TestDeclaredMetricsAreExported(t *testing.T) {
	t.Parallel()
	s := newSite(t, 2, 1, 2)
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	r := s.nodes[0]
	user := s.userOf(ctx, r, "ann")
	open := s.opened(r, user, "SELECT INBOX")
	defer open.conn.Close()
	answer, err := http.Get("http://" + r.cfg.Node.Metrics + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	page, err := io.ReadAll(answer.Body)
	if err != nil {
		t.Fatal(err)
	}
	source, err := os.ReadFile("monitor/metrics.go")
	if err != nil {
		t.Fatal(err)
	}
	later := []string{"mailnode_replica_stream_ends_total", "mailnode_connections_refused_total"}
	declared := regexp.MustCompile(`"(mailnode_[a-z_]+)"`).FindAllSubmatch(source, -1)
	if len(declared) < 10 {
		t.Fatalf("%d metrics were found in the source", len(declared))
	}
	for _, d := range declared {
		if name := string(d[1]); !strings.Contains(string(page), "# HELP "+name+" ") && !slices.Contains(later, name) {
			t.Errorf("%s is declared and not exported", name)
		}
	}
	for _, want := range []string{`mailnode_connections{protocol="imap"} 1`, `mailnode_imap_logins_total{result="ok"} 1`, `mailnode_password_hashes_total 2`} {
		if !strings.Contains(string(page), want+"\n") {
			t.Errorf("the scrape lacks %q", want)
		}
	}
}

package node

import (
	"flag"
	"os"
	"testing"
)

func TestMain(m *testing.M) {
	flag.Bool("rewrite", false, "rewrite the golden files")
	flag.Parse()
	os.Exit(m.Run())
}

// onlyLong skips a test that is too long for `make test`.
func onlyLong(t *testing.T) {
	t.Helper()
	if os.Getenv("MAILNODE_LONG") == "" {
		t.Skip("SKIPPED: MAILNODE_LONG is not set; run `make long`")
	}
}

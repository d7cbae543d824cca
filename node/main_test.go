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

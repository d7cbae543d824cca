package cli_test

import (
	"bytes"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// killUsers is enough for every slot to have some.
const killUsers = 20

// TestSystemKillLoop kills nodes with SIGKILL under full delivery load, again and
// again, and lets mailbench verify that every acknowledged message is there
// exactly once and that every UID still names the same message (laws 1 and 2).
// It is a lane of its own: `make kill` sets MAILNODE_KILL_ROUNDS. Killing
// processes tests no fsync; the crash harness of storage/local does.
func TestSystemKillLoop(t *testing.T) {
	rounds, err := strconv.Atoi(os.Getenv("MAILNODE_KILL_ROUNDS"))
	if err != nil || rounds < 1 {
		t.Skip("SKIPPED: MAILNODE_KILL_ROUNDS is not set; run `make kill`")
	}
	bench := filepath.Join(t.TempDir(), "mailbench")
	build := exec.Command("go", "build", "-trimpath", "-o", bench, ".")
	if build.Dir = "../shared/mailbench"; !isDir(build.Dir) {
		t.Skipf("SKIPPED: no load generator at %s", build.Dir)
	}
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build mailbench: %v\n%s", err, out)
	}
	for name, args := range map[string][]string{
		"OneNode":    {"--nodes", "1", "--replicas", "0", "--ack", "local", "--base-port", "31400"},
		"ThreeNodes": {"--nodes", "3", "--replicas", "1", "--ack", "replica", "--base-port", "31500"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := shortDir(t)
			s := startSystem(t, dir, append(args, "--slots", "4", "--users", strconv.Itoa(killUsers))...)
			k := killLoop{s: s, bench: bench, dir: dir}
			for i := range rounds {
				k.round()
				if i%10 == 9 || i == rounds-1 {
					k.verify()
				}
			}
			t.Logf("%d rounds, %d messages acknowledged", rounds, k.acked())
		})
	}
}

func isDir(path string) bool {
	st, err := os.Stat(path)
	return err == nil && st.IsDir()
}

type killLoop struct {
	s     *system
	bench string
	dir   string
}

func (k *killLoop) record() string { return filepath.Join(k.dir, "acked.jsonl") }

func (k *killLoop) acked() int {
	b, err := os.ReadFile(k.record())
	if err != nil {
		k.s.t.Fatal(err)
	}
	return bytes.Count(b, []byte("\n"))
}

// round puts load on the first node, kills one in the midst of it, and starts
// that again.
func (k *killLoop) round() {
	t := k.s.t
	nodes := k.s.demo().Nodes
	var out bytes.Buffer
	load := exec.Command(k.bench, "deliver", "-lmtp", nodes[0].LMTP, "-users", "u%d@example.test", "-nusers", strconv.Itoa(killUsers),
		"-n", "0", "-duration", "2500ms", "-c", "16", "-size", "4k", "-pipeline", "-timeout", "20s", "-max-fail", "200", "-record", k.record())
	load.Stdout, load.Stderr = &out, &out
	if err := load.Start(); err != nil {
		t.Fatal(err)
	}
	victim := nodes[rand.IntN(len(nodes))]
	<-time.After(200*time.Millisecond + time.Duration(rand.IntN(1800))*time.Millisecond)
	if err := syscall.Kill(victim.PID, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	load.Wait() // it fails, of course
	if k.acked() == 0 {
		t.Fatalf("nothing was acknowledged before the kill:\n%s", &out)
	}
	if out, err := exec.Command(k.s.bin, "demo", "--dir", k.s.dir, "--restart", victim.Name).CombinedOutput(); err != nil {
		t.Fatalf("restart %s: %v: %s", victim.Name, err, out)
	}
	k.s.within(60*time.Second, "every slot serves again after the kill of "+victim.Name, func() bool {
		for _, sl := range k.s.status(k.s.node(victim.Name)).Slots {
			if !sl.Serving || len(nodes) > 1 && !sl.Protected {
				return false
			}
		}
		return true
	})
}

// verify reads all mail, and what every UID names.
func (k *killLoop) verify() {
	t := k.s.t
	n := k.s.demo().Nodes[0]
	out, err := exec.Command(k.bench, "verify", "-imap", n.IMAP, "-users", "u%d@example.test", "-nusers", strconv.Itoa(killUsers),
		"-password", "pw", "-record", k.record(), "-uidmap", filepath.Join(k.dir, "uids.jsonl")).CombinedOutput()
	if err != nil || strings.Contains(string(out), "FAILED") {
		t.Fatalf("verify: %v\n%s", err, out)
	}
	t.Logf("verified, %d acknowledged", k.acked())
}

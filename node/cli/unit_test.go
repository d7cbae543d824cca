package cli

import (
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

// directives reads the unit that we ship.
func directives(t *testing.T) (text string, of map[string]string) {
	t.Helper()
	b, err := os.ReadFile("../../packaging/mailnode.service")
	if err != nil {
		t.Fatal(err)
	}
	of = map[string]string{}
	for line := range strings.Lines(string(b)) {
		if name, value, ok := strings.Cut(strings.TrimSpace(line), "="); ok && !strings.HasPrefix(name, "#") {
			of[name] = value
		}
	}
	return string(b), of
}

// A node that cannot start is tried for a good while, and no loop is for ever, with a
// systemd whose pauses grow and with one (before 254) whose pauses do not.
func TestUnitRestarts(t *testing.T) {
	_, of := directives(t)
	span := func(name string) time.Duration {
		d, err := time.ParseDuration(strings.NewReplacer("min", "m").Replace(of[name]))
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		return d
	}
	burst, err := strconv.Atoi(of["StartLimitBurst"])
	if err != nil {
		t.Fatal(err)
	}
	pause, most, interval := span("RestartSec"), span("RestartMaxDelaySec"), span("StartLimitIntervalSec")
	if tried := time.Duration(burst) * pause; tried < 10*time.Minute || tried > interval/2 {
		t.Errorf("with pauses that do not grow the limit comes after %s", tried)
	}
	// With pauses that grow, as many starts as the limit allows take longer than its time.
	if took := time.Duration(burst-20) * most; took < interval {
		t.Errorf("with pauses of up to %s the limit of %d comes within %s", most, burst, interval)
	}
	if of["Restart"] != "on-failure" || of["RestartPreventExitStatus"] != "" { // 2 is also how a panic ends
		t.Errorf("Restart=%s, RestartPreventExitStatus=%s", of["Restart"], of["RestartPreventExitStatus"])
	}
}

// systemd reads the unit, and does not know what came after it at most.
func TestUnitIsVerified(t *testing.T) {
	analyze, err := exec.LookPath("systemd-analyze")
	if err != nil {
		t.Skip("systemd-analyze is not here")
	}
	text, _ := directives(t)
	dir := t.TempDir()
	unit, program := filepath.Join(dir, "mailnode.service"), filepath.Join(dir, "mailnode")
	if err := os.WriteFile(program, []byte("#!/bin/sh\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(unit, []byte(strings.ReplaceAll(text, "/usr/bin/mailnode", program)), 0o644); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command(analyze, "verify", unit).CombinedOutput()
	if err != nil {
		t.Errorf("%v: %s", err, out)
	}
	for line := range strings.Lines(string(out)) {
		if strings.Contains(line, unit) && !strings.Contains(line, "Unknown key 'Restart") {
			t.Errorf("systemd says %q", line)
		}
	}
}

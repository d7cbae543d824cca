package node

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"mailnode/node/admin"
	"mailnode/node/monitor"
	"mailnode/storage/slot"
)

// heardHooks reads what the command of a node's hook was told, call by call.
func heardHooks(t *testing.T, path string) (calls []hookCall) {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	for sc := bufio.NewScanner(bytes.NewReader(b)); sc.Scan(); {
		var c hookCall
		if err := json.Unmarshal(sc.Bytes(), &c); err != nil {
			return calls // being written
		}
		calls = append(calls, c)
	}
	return calls
}

func (r *running) healthz(t *testing.T) (int, string) {
	t.Helper()
	resp, err := http.Get("http://" + r.cfg.Node.Metrics + "/healthz")
	if err != nil {
		return 0, err.Error()
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(b)
}

// proposalOf waits for the proposal that a node's silence makes. On a slow machine
// there may be others, about slots that are still being opened.
func (s *site) proposalOf(name slot.NodeName) (id string) {
	s.t.Helper()
	s.eventually("a proposal about "+string(name), func(st admin.Status) bool {
		i := slices.IndexFunc(st.Proposals, func(p admin.Proposal) bool { return p.Node == name })
		if i >= 0 {
			id = st.Proposals[i].ID
		}
		return i >= 0
	})
	return id
}

// The command of the hook hears of the present once at each start, then of each
// change of a master or a node, on every node; and no call of it tells less than what
// is so. /healthz says meanwhile whether the node takes clients.
func TestHookHearsOfEachChange(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	heard := func(name string) []hookCall { return heardHooks(t, filepath.Join(dir, name)) }
	s := newSiteWith(t, &site{t: t}, 3, 1, 3, fmt.Sprintf("[hooks]\non_change = %q\n", "cat >> "+dir+"/$MAILNODE_NODE"))
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for _, r := range s.nodes {
		until(t, "a first call on "+r.name, func() bool { return len(heard(r.name)) > 0 })
		if c := heard(r.name)[0]; !c.First || len(c.Changes) != 0 || string(c.Node) != r.name {
			t.Errorf("%s: the first call says %+v", r.name, c)
		}
		if code, text := r.healthz(t); code != http.StatusOK || text != r.name+" takes clients\n" {
			t.Errorf("%s: /healthz says %d %q", r.name, code, text)
		}
	}
	n1, last := s.nodes[0], s.nodes[2]
	last.stopped()
	until(t, "n3's own last call", func() bool {
		calls := heard("n3")
		c := calls[len(calls)-1]
		return !c.TakesClients && c.Why == "it is stopping"
	})
	changed := func(c hookChange) bool { return c.Node == "n3" && c.To == "stopped" }
	until(t, "n1 and n2 hear that n3 has stopped", func() bool {
		for _, name := range []string{"n1", "n2"} {
			if !slices.ContainsFunc(heard(name), func(c hookCall) bool { return slices.ContainsFunc(c.Changes, changed) }) {
				return false
			}
		}
		return true
	})
	if out, err := n1.admin.Confirm(ctx, admin.ConfirmRequest{ID: s.proposalOf("n3")}); err != nil || out.Exit != 0 {
		t.Fatalf("confirm: %+v, %v", out, err)
	}
	master := n1.node.State().Slots[2].Master
	until(t, "the new master is told on n1 and n2", func() bool {
		for _, name := range []string{"n1", "n2"} {
			calls := heard(name)
			if c := calls[len(calls)-1]; c.Slots[2].Master != master || slices.Contains(c.Masters, 2) != (name == string(master)) {
				return false
			}
		}
		return true
	})
	before := len(heard("n3"))
	s.start(last)
	until(t, "n3 hears of all at its start", func() bool { return len(heard("n3")) > before })
	if c := heard("n3")[before]; !c.First || c.Slots[2].Master != master {
		t.Errorf("after its restart n3 was told %+v", c)
	}
	for _, name := range []string{"n1", "n2", "n3"} {
		for i, c := range heard(name) {
			if !c.First && len(c.Changes) == 0 {
				t.Errorf("%s: call %d has no change", name, i)
			}
		}
	}
}

// A node that knows no leader and serves nothing sends clients elsewhere, and says why
// in one line; with a leader it takes them again.
func TestHealthzWithoutALeader(t *testing.T) {
	t.Parallel()
	s := newSite(t, 2, 1, 2)
	n1, n2 := s.nodes[0], s.nodes[1]
	n2.stopped()
	if code, text := n1.healthz(t); code != http.StatusOK {
		t.Errorf("a master that serves on without a quorum: %d %q", code, text)
	}
	n1.stopped()
	s.start(n1)
	until(t, "503 of a node that alone is no quorum", func() bool {
		code, text := n1.healthz(t)
		return code == http.StatusServiceUnavailable && text == "n1 takes no clients: it serves no slot, and knows no Raft leader\n"
	})
	s.start(n2)
	until(t, "200 again", func() bool { code, _ := n1.healthz(t); return code == http.StatusOK })
}

// A command that fails is tried again until it succeeds; the condition holds as long,
// and what changed meanwhile is told by one call.
func TestHookIsTriedAgain(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	allowed, told := filepath.Join(dir, "allowed"), filepath.Join(dir, "told")
	s := newSiteWith(t, &site{t: t}, 1, 0, 2, fmt.Sprintf("[hooks]\non_change = %q\n", "test -e "+allowed+" || { echo not now >&2; exit 7; }; cat >> "+told))
	s.eventually("hook-failed, and why", func(st admin.Status) bool {
		return slices.ContainsFunc(st.Conditions, func(c monitor.Condition) bool {
			return c.Name == monitor.HookFailed && strings.Contains(c.Text, "exit status 7: not now")
		})
	})
	if err := os.WriteFile(allowed, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	until(t, "the condition ends", func() bool { return !has(s.nodes[0], monitor.HookFailed) })
	if calls := heardHooks(t, told); len(calls) != 1 || !calls[0].First || len(calls[0].Masters) != 2 {
		t.Errorf("the command was told %+v", calls)
	}
}

// Nothing of the service manager's environment reaches the command, a child that
// outlives it holds nobody up, and one that hangs is killed with its children.
func TestHookCommand(t *testing.T) {
	t.Setenv("NOTIFY_SOCKET", "/run/secret")
	out, err := runHook(t.Context(), hookCommand{text: "env; id -u; pwd", node: "n1", socket: "/run/x.sock", within: time.Minute})
	for _, want := range []string{"MAILNODE_NODE=n1", "MAILNODE_SOCKET=/run/x.sock", "PATH=" + hookPathPreset, fmt.Sprint(os.Geteuid())} {
		if !strings.Contains(out, want) {
			t.Errorf("no %q in %q", want, out)
		}
	}
	if err != nil || strings.Contains(out, "secret") || !strings.HasSuffix(out, "\n/") {
		t.Errorf("%q, %v", out, err)
	}
	if out, err := runHook(t.Context(), hookCommand{text: "sleep 5 & echo done", within: time.Minute}); err != nil || out != "done" {
		t.Errorf("a child that runs on: %q, %v", out, err)
	}
	pid := filepath.Join(t.TempDir(), "pid")
	_, err = runHook(t.Context(), hookCommand{text: "sleep 600 & echo $! > " + pid + "; wait", within: 500 * time.Millisecond})
	if err == nil || !strings.Contains(err.Error(), "killed after 500ms") {
		t.Errorf("a command that hangs: %v", err)
	}
	b, err := os.ReadFile(pid)
	if err != nil {
		t.Fatal(err)
	}
	until(t, "the child of a killed command is gone", func() bool {
		stat, err := os.ReadFile("/proc/" + strings.TrimSpace(string(b)) + "/stat")
		return err != nil || strings.Contains(string(stat), ") Z ")
	})
	out, err = runHook(t.Context(), hookCommand{text: "head -c 100000 /dev/zero | tr '\\0' x; echo; exit 1", within: time.Minute})
	if err == nil || len(out) > hookOutputMax || len(err.Error()) > 200 {
		t.Errorf("%d bytes of output, %v", len(out), err)
	}
}

// What docs/operating/hooks.md shows is what is sent, and its example works.
func TestHookPage(t *testing.T) {
	page, err := os.ReadFile("../docs/operating/hooks.md")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(page), "```json\n")
	shown, rest, _ := strings.Cut(rest, "```")
	var c hookCall
	d := json.NewDecoder(strings.NewReader(shown))
	d.DisallowUnknownFields()
	if err := d.Decode(&c); err != nil {
		t.Fatal(err)
	}
	if len(c.Slots) == 0 || len(c.Nodes) == 0 || len(c.Changes) == 0 || len(c.Masters) == 0 {
		t.Errorf("the page shows %+v", c)
	}
	_, rest, _ = strings.Cut(rest, "```\n#!/bin/sh\n")
	script, _, _ := strings.Cut(rest, "```")
	dir := t.TempDir()
	script = strings.ReplaceAll(script, "/run/mailnode", dir)
	for _, takes := range []bool{true, false, false, true} {
		c.TakesClients = takes
		input, err := json.Marshal(c)
		if err != nil {
			t.Fatal(err)
		}
		if out, err := runHook(t.Context(), hookCommand{text: script, input: input, within: time.Minute}); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		if _, err := os.Stat(filepath.Join(dir, "takes-clients")); (err == nil) != takes {
			t.Errorf("takes clients: %v, the file: %v", takes, err)
		}
	}
}

package lmtpd

import (
	"fmt"
	"regexp"
	"strings"
	"testing"

	"github.com/cockroachdb/datadriven"
)

// TestTranscripts plays testdata/*: what the client says and what it hears, on
// TCP and on a unix socket. `go test -rewrite` writes the answers again.
//
//	session    one connection: the lines that the client sends; \x escapes as in Go
//	stored     what the node was given since the last `stored`
func TestTranscripts(t *testing.T) {
	datadriven.Walk(t, "testdata/transcripts", func(t *testing.T, path string) {
		var h *harness
		if strings.Contains(path, "unix") {
			h = serveOn(t, unixListener(t), nil)
		} else {
			h = serve(t, nil)
		}
		shown := 0
		datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string {
			switch d.Cmd {
			case "session":
				network := "tcp"
				if strings.Contains(path, "unix") {
					network = "unix"
				}
				return play(dial(t, network, h.addr), d.Input)
			case "stored":
				all := h.bag.all()
				defer func() { shown = len(all) }()
				return show(all[shown:])
			}
			t.Fatalf("%s: unknown command %q", d.Pos, d.Cmd)
			return ""
		})
	})
}

// play sends a line, waits for what a client waits for, and so on.
func play(c *client, input string) string {
	var out strings.Builder
	hear := func() string {
		r := c.reply()
		for l := range strings.Lines(r) {
			out.WriteString("S: " + strings.TrimRight(l, "\r\n") + "\n")
		}
		if r == "" {
			out.WriteString("S: (closed)\n")
		}
		return r
	}
	hear()
	accepted, message := 0, false
	for line := range strings.Lines(input) {
		line = strings.TrimRight(line, "\n")
		sent := regexp.MustCompile(`\\x[0-9a-f]{2}`).ReplaceAllStringFunc(line, func(s string) string {
			var b byte
			fmt.Sscanf(s, `\x%02x`, &b)
			return string([]byte{b})
		})
		out.WriteString("C: " + line + "\n")
		c.send(sent)
		switch {
		case message && line == ".":
			message = false
			for range accepted {
				hear()
			}
			accepted = 0
		case message:
		default:
			r := hear()
			verb := strings.ToUpper(line[:min(4, len(line))])
			switch {
			case r == "":
				return out.String()
			case verb == "MAIL" || verb == "RSET" || verb == "LHLO":
				accepted = 0
			case verb == "RCPT" && r[0] == '2':
				accepted++
			case verb == "DATA" && r[0] == '3':
				message = true
			}
		}
	}
	c.Close()
	return out.String()
}

func show(all []kept) string {
	id := regexp.MustCompile(` id [A-Z2-7]{16};`)
	var b strings.Builder
	for _, k := range all {
		fmt.Fprintf(&b, "to:")
		for _, r := range k.to {
			fmt.Fprintf(&b, " %s(%s/%d)", r.Address, r.Slot, r.Account)
		}
		fmt.Fprintf(&b, " at %s\n", k.date.Format("15:04:05"))
		text := id.ReplaceAllString(k.body, " id (ID);")
		for l := range strings.Lines(text) {
			fmt.Fprintf(&b, "  %q\n", l)
		}
	}
	if len(all) == 0 {
		return "nothing\n"
	}
	return b.String()
}

package imapd

import (
	"fmt"
	"strings"
	"testing"

	"github.com/cockroachdb/datadriven"
)

// TestGolden runs the transcripts in testdata: "deliver USER" delivers its
// input, "imap SESSION [user=U]" plays client lines, "open SESSION" only
// connects. A line that follows a literal's announcement is sent as it is.
func TestGolden(t *testing.T) {
	datadriven.Walk(t, "testdata", func(t *testing.T, path string) {
		b := newBench(t, nil)
		sessions := map[string]*wireClient{}
		datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string {
			name := ""
			if len(d.CmdArgs) > 0 {
				name = d.CmdArgs[0].Key
			}
			switch d.Cmd {
			case "deliver":
				b.deliver(name, crlf(d.Input+"\n"))
				return ""
			case "open":
				c := dial(t, b.plain)
				sessions[name] = c
				return "S: " + c.line() + "\n"
			case "login":
				sessions[name] = b.login(d.CmdArgs[1].Key)
				return ""
			case "imap":
				return play(sessions[name], d.Input)
			}
			return "unknown directive " + d.Cmd
		})
	})
}

func play(c *wireClient, input string) string {
	var out strings.Builder
	show := func(lines ...string) {
		for _, l := range lines {
			fmt.Fprintf(&out, "S: %s\n", strings.ReplaceAll(l, "\r\n", "\n   "))
		}
	}
	tag, literal := "", false
	for line := range strings.SplitSeq(input, "\n") {
		fmt.Fprintf(&out, "C: %s\n", line)
		if !literal && line != "DONE" {
			tag, _, _ = strings.Cut(line, " ")
		}
		literal = false
		if lit := strings.HasSuffix(line, "}"); lit {
			c.send(line + "\r\n")
			literal = true
			if !strings.HasSuffix(line, "+}") {
				got := c.line()
				show(got)
				literal = strings.HasPrefix(got, "+ ")
			}
			continue
		}
		c.send(line + "\r\n")
		if strings.Contains(line, " IDLE") {
			show(c.until("+ ")...)
			continue
		}
		show(c.until(tag + " ")...)
	}
	return out.String()
}

package cli

import (
	"context"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"

	"mailnode/node/admin"
	"mailnode/node/job"
	"mailnode/storage/slot"
)

// audits implements admin.Mending on a node that has copies of s003 and s007.
type audits struct {
	jobs  *job.Registry
	asked []admin.AuditRequest
}

// Audit implements admin.Mending.
func (a *audits) Audit(_ context.Context, r admin.AuditRequest) (admin.Jobs, error) {
	a.asked = append(a.asked, r)
	ids := r.Slots
	if r.All {
		ids = []slot.ID{3, 7}
	}
	var out admin.Jobs
	for _, id := range ids {
		if id != 3 && id != 7 {
			return out, &admin.Error{Text: fmt.Sprintf("audit slot %s: n2 has no copy of it; copies are on n1 and n3", id), Exit: admin.ExitUsage, Next: "ssh n1 mailnode slot audit " + id.String()}
		}
		j := a.jobs.Start(job.Spec{Kind: job.Audit, Slot: id.String(), What: "packs, index and other copies", RateBytesPerSec: r.RateBytesPerSec}, func(_ context.Context, p *job.Progress) error {
			switch {
			case id == 3:
				return nil
			case r.Repair:
				p.Finding("u7@example.test INBOX uid 18630: body missing; fetched from n2, sha256 ok")
				return nil
			}
			p.Finding("u7@example.test INBOX uid 18630: body missing; not repaired: --repair takes it from another copy")
			return fmt.Errorf("audit slot s007: 1 of 1 findings left: mailnode slot audit s007 --repair")
		})
		<-j.Over() // so that the transcript never sees it run
		out.Jobs = append(out.Jobs, j.Status())
	}
	return out, nil
}

// Missing implements admin.Mending.
func (a *audits) Missing(_ context.Context, only []slot.ID) (admin.MissingMessages, error) {
	m := admin.MissingMessages{Messages: []admin.MissingMessage{{Slot: 7, Address: "u7@example.test", Mailbox: "INBOX", UID: 18630, Bytes: 12345,
		Date: "2026-11-21T17:00:00Z", GUID: strings.Repeat("ab", 32), AgoS: 60}}, Unknown: []slot.ID{4, 5}}
	if len(only) > 0 && !slices.Contains(only, 7) {
		return admin.MissingMessages{}, nil
	}
	return m, nil
}

// TestAudit shows audits as an operator without a terminal sees them, and lists
// what is missing.
func TestAudit(t *testing.T) {
	s := calm()
	s.jobs = newJobs(t)
	s.mending = &audits{jobs: s.jobs}
	got := transcript(t, s.serve(t), "slot audit s003", "slot audit s007", "slot audit s007 --repair --rate 2MiB/s", "slot audit --all", "slot audit --all --json",
		"slot audit s001", "slot audit", "slot audit s003 --all", "slot audit seven", "slot audit s003 --rate fast",
		"slot missing", "slot missing s003", "slot missing --json", "slot missing x")
	got = regexp.MustCompile(`20\d\d-\d\d-\d\dT[^ ",]*Z","run`).ReplaceAllString(got, `WHEN","run`)
	golden(t, "audit.txt", got)
	if r := s.mending.asked[2]; !r.Repair || r.RateBytesPerSec != 2<<20 || len(r.Slots) != 1 || r.All {
		t.Errorf("asked for %+v", r)
	}
}

func TestRate(t *testing.T) {
	for text, want := range map[string]int64{"50MB/s": 50_000_000, "800k": 800_000, "1GiB/s": 1 << 30, "1.5M": 1_500_000, "4096": 4096} {
		if got, err := parseRate(text); err != nil || got != want {
			t.Errorf("%q: %d, %v; want %d", text, got, err, want)
		}
	}
	for _, text := range []string{"", "0", "-1M", "50 parsecs", "5TB", "1e9", "100"} {
		if got, err := parseRate(text); err == nil {
			t.Errorf("%q: %d", text, got)
		}
	}
}

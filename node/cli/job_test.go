package cli

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"regexp"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"

	"mailnode/node/admin"
	"mailnode/node/job"
	"mailnode/storage"
)

func newJobs(t *testing.T) *job.Registry {
	t.Helper()
	r := job.New(job.Options{Clock: storage.SystemClock(), Logger: slog.New(slog.DiscardHandler)})
	t.Cleanup(r.Close)
	return r
}

// TestJobs shows every verb on a job that ended, one that runs and one that waits.
func TestJobs(t *testing.T) {
	s := calm()
	s.jobs = newJobs(t)
	<-s.jobs.Start(job.Spec{Kind: job.Audit, Slot: "s007", What: "packs", By: "root", RateBytesPerSec: 50 << 20}, func(ctx context.Context, p *job.Progress) error {
		p.Total(1<<20, 4)
		p.Items(4)
		p.Finding("u7@example.test INBOX uid 18630: body missing; fetched from n2, sha256 ok")
		p.Finding("a \x1b[31mname")
		return p.Spend(ctx, 1<<20)
	}).Over()
	<-s.jobs.Start(job.Spec{Kind: job.Audit, Slot: "s008"}, func(context.Context, *job.Progress) error { return errors.New("audit slot s008: read index: damaged") }).Over()
	began := make(chan struct{})
	hold := func(ctx context.Context, p *job.Progress) error {
		p.Total(0, 10)
		p.Items(4)
		close(began)
		<-ctx.Done()
		return ctx.Err()
	}
	s.jobs.Start(job.Spec{Kind: job.Reindex, Slot: "s003", What: "index"}, hold)
	<-began
	s.jobs.Start(job.Spec{Kind: job.Reindex, Slot: "s004", What: "index"}, hold)
	got := transcript(t, s.serve(t), "job list", "job show j1", "job show j1 --follow", "job show j1 --follow --json", "job show j2 --follow",
		"job show j3", "job show j9", "job stop j1", "job stop j4", "job show j4 --follow", "job list")
	got = regexp.MustCompile(`20\d\d-[^ ",]*Z`).ReplaceAllString(got, "WHEN")
	got = regexp.MustCompile(`, \d+ s to go|"eta_s":\d+,`).ReplaceAllString(got, "")
	golden(t, "jobs.txt", got)
}

// TestLaw12FollowerHangsUp: Ctrl-C ends the looking on, not the job.
func TestLaw12FollowerHangsUp(t *testing.T) {
	s := calm()
	s.jobs = newJobs(t)
	release := make(chan struct{})
	j := s.jobs.Start(job.Spec{Kind: job.Audit, Slot: "s001"}, func(ctx context.Context, _ *job.Progress) error {
		select {
		case <-release:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	})
	ctx, hangUp := context.WithCancel(context.Background())
	hangUp()
	var out bytes.Buffer
	err := (&app{out: &out, socket: s.serve(t)}).follow(ctx, j.ID())
	var refusal *admin.Error
	if !errors.As(err, &refusal) || refusal.Exit != admin.ExitRefused || refusal.Text != "job j1 goes on without you" || refusal.Next == "" {
		t.Errorf("%#v", err)
	}
	if st := j.Status(); st.State != job.Running {
		t.Errorf("the job is %s", st.State)
	}
	close(release)
	<-j.Over()
	if st := j.Status(); st.State != job.Done {
		t.Errorf("the job ended %s", st.State)
	}
}

func TestBarFits(t *testing.T) {
	st := job.Status{ID: "j123456", State: job.Running, Done: 0.5, EtaS: 86400,
		Counts: job.Counts{BytesDone: 1 << 40, BytesTotal: 2 << 40, ItemsDone: 1 << 30, ItemsTotal: 1 << 31}}
	if line := barLine(st); utf8.RuneCountInString(line) >= screenWidth || !strings.Contains(line, "[##########..........] 50%") {
		t.Errorf("%q", line)
	}
	var out bytes.Buffer
	f := following{out: &out, bar: true}
	f.show(job.Detail{Status: st, Lines: []string{"found"}})
	if diff := cmp.Diff("\r\x1b[Kfound\n"+barLine(st), out.String()); diff != "" {
		t.Error(diff)
	}
}

package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"mailnode/figures"
	"mailnode/node/admin"
)

func (a *app) job() *cobra.Command {
	return group("job", "Long work: audit, reindex, compaction; how far it is, what it found", a.jobList(), a.jobShow(), a.jobStop())
}

func (a *app) jobList() *cobra.Command {
	return a.reads(a.verb("list", nil, "What runs or waits on this node, then what ended lately", func(ctx context.Context, _ []string) error {
		list, err := a.client().Jobs(ctx)
		if err != nil {
			return err
		}
		return a.show(list, func() string {
			if len(list.Jobs) == 0 {
				return "no job runs, and none has ended since the node began\n"
			}
			rows := [][]string{{"JOB", "KIND", "STATE", "DONE", "FOUND", "ABOUT"}}
			for _, j := range list.Jobs {
				rows = append(rows, []string{j.ID, j.Kind, string(j.State), fmt.Sprintf("%.0f%%", 100*j.Done), fmt.Sprint(j.Findings), orDash(clean(j.About))})
			}
			return table(rows)
		})
	}))
}

func (a *app) jobShow() *cobra.Command {
	follow := false
	c := a.reads(a.verb("show", []string{"ID"}, "One job and its findings", func(ctx context.Context, args []string) error {
		if follow {
			return a.follow(ctx, args[0])
		}
		j, err := a.client().Job(ctx, args[0], 0)
		for more := j.More; err == nil && more; {
			var next admin.JobDetail
			next, err = a.client().Job(ctx, args[0], j.After+len(j.Lines))
			j.Lines, more = append(j.Lines, next.Lines...), next.More
		}
		if err != nil {
			return err
		}
		j.More = false
		return a.show(j, func() string { return jobScreen(j) })
	}))
	c.Flags().BoolVar(&follow, "follow", false, "go on to its end")
	return c
}

func jobScreen(j admin.JobDetail) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s %s %s: %s\n", j.ID, j.Kind, clean(j.About), j.State)
	rows := [][]string{{"  progress", progressText(j.Status)}}
	if j.By != "" {
		rows = append(rows, []string{"  asked by", clean(j.By)})
	}
	if j.Started != "" {
		rows = append(rows, []string{"  began", j.Started + ", ran for " + age(j.RunS)})
	}
	if j.RateBytesPerSec > 0 {
		rows = append(rows, []string{"  at most", figures.Size(j.RateBytesPerSec) + "/s"})
	}
	if j.Error != "" {
		rows = append(rows, []string{"  error", clean(j.Error)})
	}
	b.WriteString(table(rows))
	if j.After > 0 {
		fmt.Fprintf(&b, "  the first %s are no longer kept\n", figures.Count(j.After, "finding"))
	}
	for _, line := range j.Lines {
		b.WriteString(clean(line) + "\n")
	}
	return b.String()
}

func (a *app) jobStop() *cobra.Command {
	return a.verb("stop", []string{"ID"}, "End a job; what it did stays done", func(ctx context.Context, args []string) error {
		a.say("stopping job %s", clean(args[0]))
		j, err := a.client().StopJob(ctx, args[0])
		if err != nil {
			return err
		}
		a.say("%s %s %s: asked to end", j.ID, j.Kind, clean(j.About))
		return nil
	})
}

// progressText says how far a job is, in one line.
func progressText(j admin.Job) string {
	if j.State == "queued" {
		return "waits for its turn"
	}
	text := fmt.Sprintf("%.0f%%", 100*j.Done)
	if j.BytesDone > 0 {
		text += ", " + figures.Size(j.BytesDone)
		if j.BytesTotal > 0 {
			text += " of " + figures.Size(j.BytesTotal)
		}
	}
	if j.ItemsDone > 0 {
		text += fmt.Sprintf(", %d", j.ItemsDone)
		if j.ItemsTotal > 0 {
			text += fmt.Sprintf(" of %d", j.ItemsTotal)
		}
	}
	if j.EtaS > 0 {
		text += ", " + age(j.EtaS) + " to go"
	}
	return text
}

const (
	followEvery = 500 * time.Millisecond
	plainEvery  = 10 * time.Second // a line of progress, where there is no terminal
)

// follow shows a job to its end: findings one line each as they come, and on a
// terminal a bar below them. With --json it prints one object per line, either
// {"finding":…} or {"job":…}. Ctrl-C leaves the job running. The exit code says
// how the job ended, not whether it found anything.
func (a *app) follow(ctx context.Context, id string) error {
	ctx, stop := signal.NotifyContext(ctx, os.Interrupt, syscall.SIGTERM)
	defer stop()
	f := &following{out: a.out, asJSON: a.asJSON, bar: isTerminal(a.out) && !a.asJSON, began: time.Now()}
	wait := followEvery / 16 // most jobs are short
	for after := 0; ; {
		d, err := a.client().Job(ctx, id, after)
		if err != nil && ctx.Err() == nil {
			f.clear()
			return err
		}
		if err == nil {
			after = d.After + len(d.Lines)
			f.show(d)
			if d.State.Over() && !d.More {
				return f.end(d.Status)
			}
		}
		pause := time.NewTimer(wait)
		select {
		case <-pause.C:
		case <-ctx.Done():
			pause.Stop()
			f.clear()
			return &admin.Error{Text: fmt.Sprintf("job %s goes on without you", id), Exit: admin.ExitRefused, Next: "mailnode job show " + id + " --follow"}
		}
		wait = min(2*wait, followEvery)
	}
}

// following is the output of follow.
type following struct {
	out    io.Writer
	asJSON bool
	bar    bool
	began  time.Time
	shown  admin.Job
	told   time.Duration // when the last plain line was written, since began
}

func (f *following) clear() {
	if f.bar {
		io.WriteString(f.out, "\r\x1b[K")
	}
}

func (f *following) json(key string, v any) {
	json.NewEncoder(f.out).Encode(map[string]any{key: v}) // an error of standard output shows itself
}

func (f *following) show(d admin.JobDetail) {
	f.clear()
	for _, line := range d.Lines {
		if f.asJSON {
			f.json("finding", line)
		} else {
			fmt.Fprintln(f.out, clean(line))
		}
	}
	since := time.Since(f.began)
	switch changed := d.Status != f.shown; {
	case f.asJSON:
		if changed {
			f.json("job", d.Status)
		}
	case d.State.Over():
	case f.bar:
		io.WriteString(f.out, barLine(d.Status))
	case since-f.told >= plainEvery:
		f.told = since
		fmt.Fprintf(f.out, "%s %s %s: %s\n", d.ID, d.Kind, clean(d.About), progressText(d.Status))
	}
	f.shown = d.Status
}

// barLine is one line that a terminal of screenWidth columns does not wrap.
func barLine(j admin.Job) string {
	const width = 20
	full := int(width * j.Done)
	line := fmt.Sprintf("%s [%s%s] %s", j.ID, strings.Repeat("#", full), strings.Repeat(".", width-full), progressText(j))
	if r := []rune(line); len(r) > screenWidth-1 {
		line = string(r[:screenWidth-1])
	}
	return line
}

// end says how it went; the exit code is the job's.
func (f *following) end(j admin.Job) error {
	if !f.asJSON {
		fmt.Fprintf(f.out, "%s %s %s: %s after %s, %s\n", j.ID, j.Kind, clean(j.About), j.State, age(j.RunS), figures.Count(j.Findings, "finding"))
	}
	switch {
	case j.State == "failed":
		return errors.New(clean(j.Error))
	case j.State == "stopped":
		return &admin.Error{Text: fmt.Sprintf("job %s was stopped before its end", j.ID), Exit: admin.ExitRefused}
	}
	return nil
}

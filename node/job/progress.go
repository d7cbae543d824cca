package job

import (
	"context"
	"fmt"
	"time"
)

// Progress is how a running job tells of itself. All methods may be called from
// several goroutines.
type Progress struct{ j *Job }

// Total says how much there is to do; 0: not known. It may be corrected later.
func (p *Progress) Total(bytes, items int64) {
	p.locked(func(j *Job) { j.bytes.total, j.items.total = bytes, items })
}

// Resumed counts what an earlier run has done, which says nothing of the speed
// of this one.
func (p *Progress) Resumed(bytes, items int64) {
	p.locked(func(j *Job) {
		j.bytes.done, j.bytes.resumed = j.bytes.done+bytes, j.bytes.resumed+bytes
		j.items.done, j.items.resumed = j.items.done+items, j.items.resumed+items
	})
}

// Items counts things done.
func (p *Progress) Items(n int64) { p.locked(func(j *Job) { j.items.done += n }) }

// At says what the job is at now, such as a mailbox's name.
func (p *Progress) At(what string) { p.locked(func(j *Job) { j.at = cut(what) }) }

// Finding appends a line to what was found. The newest 10,000 are kept.
func (p *Progress) Finding(format string, args ...any) {
	line := cut(fmt.Sprintf(format, args...))
	p.locked(func(j *Job) {
		if len(j.findings) >= findingsMax {
			drop := findingsMax / 10 // in one go: a copy of the list per line would be slow
			j.findings = append(j.findings[:0], j.findings[drop:]...)
			j.forgotten += drop
		}
		j.findings = append(j.findings, line)
	})
}

// burst is how much time a job may have saved up, so that a wait that was a
// little too long does not lower the rate.
const burst = 100 * time.Millisecond

// Spend waits until the job's rate allows for so many bytes, on the monotonic
// clock, and counts them as done. It returns ctx's error when the job is to end;
// call it before the bytes are read or written.
func (p *Progress) Spend(ctx context.Context, bytes int64) error {
	var wait time.Duration
	p.locked(func(j *Job) {
		if rate := j.spec.RateBytesPerSec; rate > 0 {
			now := j.r.o.Clock.Mono()
			j.nextFree = max(j.nextFree, now-burst)
			wait = j.nextFree - now
			j.nextFree += time.Duration(float64(bytes) / float64(rate) * float64(time.Second))
		}
	})
	if err := pause(ctx, wait); err != nil {
		return err
	}
	p.locked(func(j *Job) { j.bytes.done += bytes })
	return nil
}

func pause(ctx context.Context, wait time.Duration) error {
	if wait <= 0 {
		return ctx.Err()
	}
	t := time.NewTimer(wait)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (p *Progress) locked(fn func(*Job)) {
	p.j.r.mu.Lock()
	defer p.j.r.mu.Unlock()
	fn(p.j)
}

func cut(line string) string {
	if len(line) > findingBytes {
		return line[:findingBytes] + "…"
	}
	return line
}

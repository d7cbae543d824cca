// Package figures writes counts, ages and sizes as operators read them, so that a
// plan, a screen, a condition and an answer of the admin API show them alike.
package figures

import (
	"fmt"
	"time"
)

// Whole are the numbers that things are counted in.
type Whole interface {
	~int | ~int64 | ~uint64
}

// Count returns "1 message", "1,234 messages". n is not negative.
func Count[N Whole](n N, one string) string {
	if n == 1 {
		return "1 " + one
	}
	digits := fmt.Sprint(n)
	for i := len(digits) - 3; i > 0; i -= 3 {
		digits = digits[:i] + "," + digits[i:]
	}
	return digits + " " + one + "s"
}

// Age returns a duration in the largest unit that still says something: "17 s",
// "4 min", "3 h", "2 days".
func Age(d time.Duration) string {
	switch {
	case d < 2*time.Minute:
		return fmt.Sprintf("%d s", int64(d/time.Second))
	case d < 2*time.Hour:
		return fmt.Sprintf("%d min", int64(d/time.Minute))
	case d < 48*time.Hour:
		return fmt.Sprintf("%d h", int64(d/time.Hour))
	}
	return fmt.Sprintf("%d days", int64(d/(24*time.Hour)))
}

// FineAge is Age with one digit behind the point while that says something.
func FineAge(d time.Duration) string {
	if d < 10*time.Second {
		return fmt.Sprintf("%.1f s", d.Seconds())
	}
	return Age(d)
}

// Size returns bytes: "1023 B", "1.5 KiB".
func Size[N Whole](n N) string {
	const units = "KMGTPE"
	if n < 1024 {
		return fmt.Sprintf("%d B", n)
	}
	v, i := float64(n), -1
	for v >= 1024 && i < len(units)-1 {
		v /= 1024
		i++
	}
	return fmt.Sprintf("%.1f %ciB", v, units[i])
}

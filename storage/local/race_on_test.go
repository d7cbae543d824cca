//go:build race

package local

// raceDetector: the race detector is built in, under which 100,000 of
// anything take minutes. `make test` runs the store without it, too.
const raceDetector = true

//go:build race

package local

// raceDetector: the race detector is built in, under which 100,000 of
// anything take minutes. `make test` runs the store without it, too. Pebble then takes
// a stack at every opening of a table file, a third of all work, and draws once per
// process whether its memory is Go's: the same tests take half as long again then.
const raceDetector = true

// Package doctor finds out whether what the store says is so, and mends what is not.
//
// [Run] looks for every kind of damage. A kind is one file: a method of [Exam] that looks, and that
// reports findings which know what mends them. Looking changes nothing, and is right beside
// running operations. Mending never throws away bytes that may be needed: what is wrong is put
// into quarantine.
package doctor

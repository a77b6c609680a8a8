import unittest

from .layout import Calls, pattern, patterns, script

WROTE = """\
version: 1
positions: instr line
ob=(1) /bin/gate

fn=(1) poll
0x100 1 3
cfn=(2) _ZN4gate4walk17h0123456789abcdefE
calls=10 0x200 5
0x120 1 900
+8 2 1
cob=(2) /lib/libc.so
cfn=(3) memcpy
calls=10 0x9 5
* 2 40
-20 2 1
cfn=(4) early
calls=10 0x300 5
* 2 40

fn=(2)
0x200 5 10
cfn=(2)'2
calls=1 0x300 5
+4 5 1
cfn=(5) rare
calls=2 0x400 5
+4 5 2
""".splitlines()


class Layout(unittest.TestCase):
    def test_functions_stand_in_the_order_of_their_calls(self):
        calls = Calls(WROTE, "/bin/gate")
        self.assertEqual(calls.walk(5), ["early", "_ZN4gate4walk17h0123456789abcdefE"])
        self.assertEqual(calls.times["rare"], 2)
        self.assertNotIn("", calls.times)

    def test_what_is_not_of_the_program_is_left_out(self):
        self.assertNotIn("memcpy", Calls(WROTE, "/bin/gate").hot(1))

    def test_a_pattern_outlives_the_compiler(self):
        self.assertEqual(pattern("_ZN4gate4walk17h0123456789abcdefE.llvm.77"), "_ZN4gate4walk17h*E*")
        self.assertEqual(pattern("_RNvNtCslNYArtu3iFV_5alloc3fmt"), "_RNvNtCs*_5alloc3fmt")
        self.assertEqual(pattern("malloc"), "malloc")
        self.assertEqual(pattern("aws_lc_0_47_0_SHA256_Init"), "aws_lc_*_SHA256_Init")
        self.assertEqual(pattern("extent_split.constprop.0"), "extent_split*")
        self.assertEqual(pattern("free.part.0.isra.1"), "free*")

    def test_functions_of_one_pattern_are_named_once(self):
        sizes = {"_ZN1a17h0123456789abcdefE": 16, "_ZN1a17hfedcba9876543210E": 16, "b": 16}
        self.assertEqual(patterns(list(sizes), sizes.items()), ["_ZN1a17h*E", "b"])

    def test_a_pattern_that_many_others_fit_is_left_out(self):
        one, other = "_ZN1a17h0123456789abcdefE", "_ZN1a17hfedcba9876543210E"
        self.assertEqual(patterns([one], [(one, 16), (other, 4096)]), ["_ZN1a17h*E"])
        self.assertEqual(patterns([one], [(one, 16), (other, 4097)]), [])
        self.assertEqual(patterns([one], [(one, 8192), (other, 8192)]), ["_ZN1a17h*E"])
        self.assertEqual(patterns(["b"], [("b", 16)] * 300), [])

    def test_the_script_puts_them_before_all_other_code(self):
        told = script(["a", "b"], "why")
        self.assertIn("        *(.text.a)\n        *(.text.b)\n        *(.text .text.*)\n    }\n", told)
        self.assertTrue(told.startswith("/* why */\nSECTIONS\n"))
        self.assertTrue(told.endswith("}\nINSERT AFTER .init;\n"))

// What waits for a charge that Python's ledger writer books: to the writer it looks like a future of the loop.
#pragma once
#include "python.hpp"

namespace express {

class Call;

bool prepare_waiting();                         // once; false with a Python error set
Ref make_waiting(Call* call, PyObject* loop);   // get_loop(), done(), set_result(x), set_exception(e)
bool forget_call(PyObject* waiting);            // nobody is to be told any more; false where it has been told

}  // namespace express

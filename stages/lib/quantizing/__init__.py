"""A merged model as files for llama.cpp, and what llama.cpp answers from them; quantize, export and chat."""
